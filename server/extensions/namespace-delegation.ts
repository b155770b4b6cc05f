// XEP-0355: Namespace Delegation, version 0.5 (2021-10-15)
import { Jid } from '../../lib/jid.ts'
import { StanzaError } from '../../lib/stanza/errors.ts'
import { randomId } from '../../lib/stanza/ids.ts'
import { CLIENT_NS, errorReply, stanzaOf, type Stanza } from '../../lib/stanza/stanza.ts'
import { type Element, xml } from '../../lib/xml/element.ts'
import { accessRule, list, map, record, text } from '../config/options.ts'
import { defineExtension } from './extension.ts'

const NS = 'urn:xmpp:delegation:2'
const FORWARD_NS = 'urn:xmpp:forward:0'
const ANSWER_MS = 30_000

interface Delegated {
  readonly access: string
  readonly filtering: readonly string[]
}

export interface DelegationOptions {
  namespaces: ReadonlyMap<string, Delegated>
}

export const namespaceDelegation = defineExtension({
  name: 'namespace-delegation',
  ejabberd: 'mod_delegation',
  specs: [{ xep: 355, version: '0.5', status: 'partial', note: 'to components, as the administrator says (§4); no nested service discovery' }],
  features: [NS],
  needs: ['host', 'iq', 'hooks', 'router', 'sessions', 'components', 'access', 'log'],
  options: {
    namespaces: {
      type: map(record<{ access: string; filtering: readonly string[] }>({
        access: { type: accessRule(), default: 'none', help: 'Which component answers; an access rule for its domain.' },
        filtering: { type: list(text()), default: [], help: 'Attributes that the payload must have.' },
      })),
      default: new Map() as ReadonlyMap<string, Delegated>,
      help: 'Namespaces of requests to the host and to accounts that a component answers.',
    },
  },
  start({ host, iq, hooks, router, sessions, components, access, log }, { namespaces }: DelegationOptions) {
    const isAllowed = ({ access: rule }: Delegated, domain: string): boolean => rule !== 'none' && access.allows(rule, { jid: Jid.parse(domain) })

    // §4.2
    hooks.componentConnected((domain, tell) => {
      const delegated = [...namespaces].filter(([, each]) => isAllowed(each, domain))
      if (tell === undefined || delegated.length === 0) return
      log.info({ what: 'component_answers', host, domain, namespaces: delegated.map(([namespace]) => namespace) })
      tell(stanzaOf('message', { from: host, to: domain, id: randomId(9) }, xml('delegation', { xmlns: NS },
        delegated.map(([namespace, { filtering }]) => xml('delegated', { namespace }, filtering.map((name) => xml('attribute', { name })))))))
    })

    // §4.3
    iq.divert((stanza, from) => {
      const [child] = stanza.children
      const delegated = child === undefined ? undefined : namespaces.get(child.xmlns)
      if (child === undefined || delegated === undefined || delegated.access === 'none') return false
      // §4.3.1: what the component itself asks is answered as ever.
      if (from.local === '' && components.isConnected(from.domain) && isAllowed(delegated, from.domain)) return false
      if (delegated.filtering.length > 0) {
        const { attrs } = stanza.childElement(child)
        if (delegated.filtering.some((name) => attrs[name] === undefined)) return false
      }
      forward(stanza, delegated).catch((error: unknown) => {
        if (!(error instanceof StanzaError)) log.error({ what: 'delegation_failed', error })
        return errorReply(stanza, error instanceof StanzaError ? error : new StanzaError('internal-server-error'))
      }).then((answer) => {
        const session = sessions.get(stanza.from ?? '')
        if (session !== undefined) session.send(answer)
        else if (answer.from !== undefined) router.route(answer)
      }).catch((error: unknown) => { log.error({ what: 'delegation_failed', error }) })
      return true
    })

    async function forward(stanza: Stanza, delegated: Delegated): Promise<Stanza> {
      const domain = components.domains().find((each) => isAllowed(delegated, each))
      if (domain === undefined) throw new StanzaError('service-unavailable')
      const element = stanza.element()
      const inner = xml('iq', { ...element.attrs, xmlns: CLIENT_NS }, element.getChildElements())
      const answer = await iq.request(stanzaOf('iq', { type: 'set', from: host, to: domain }, xml('delegation', { xmlns: NS }, xml('forwarded', { xmlns: FORWARD_NS }, inner))), ANSWER_MS)
      const result = answer?.type === 'result' ? answer.element().getChild('delegation', NS)?.getChild('forwarded', FORWARD_NS)?.getChild('iq') : undefined
      if (result === undefined || !isAnswer(result, stanza)) {
        log.warn({ what: 'delegation_failed', domain, namespace: stanza.children[0]?.xmlns, answer: answer?.type })
        throw new StanzaError('service-unavailable')
      }
      return stanzaOf('iq', { ...result.attrs, xmlns: undefined, from: stanza.to, to: stanza.from }, ...result.getChildElements())
    }
  },
})

/** §4.3: its addresses are those of the request the other way round, and it has the same id. */
function isAnswer({ attrs }: Element, request: Stanza): boolean {
  const sender = attrs['from']
  const own = Jid.parse(request.from ?? '').bare
  return attrs['type'] === 'result' && attrs['id'] === request.id && attrs['to'] === request.from && (sender === request.to || (request.to === undefined && sender === own) || (request.to === own && sender === undefined))
}
