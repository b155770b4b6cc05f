// XEP-0377: Blocking and Reporting, version 0.4.1 (2026-02-25)
import { Jid } from '../../lib/jid.ts'
import { Recent } from '../../lib/recent.ts'
import { DELAY_NS, formatDateTime } from '../../lib/stanza/delay.ts'
import { nextMessageId, timeOfMessageId } from '../../lib/stanza/ids.ts'
import { readStanza } from '../../lib/stanza/read.ts'
import { CLIENT_NS, stanzaOf } from '../../lib/stanza/stanza.ts'
import { type Element, xml } from '../../lib/xml/element.ts'
import { defineExtension } from './extension.ts'
import { copyOf } from './standalone-element.ts'

const NS = 'urn:xmpp:reporting:1'
const STANZA_ID_NS = 'urn:xmpp:sid:0'
const FORWARD_NS = 'urn:xmpp:forward:0'
/** Of what a client says of a contact so much is passed on. */
const TEXT_MAX = 2000
const TEXTS_MAX = 10
const MESSAGES_MAX = 10
/** Bytes of all messages that a report quotes whole; of others it has the beginning of their text. */
const MESSAGES_BYTES_MAX = 65_536
const ID_MAX = 200
/** Reports of one account within an hour; what comes beyond is logged alone. */
const REPORTS_MAX = 20
const HOUR = 3_600_000

export const abuseReports = defineExtension({
  name: 'abuse-reports',
  ejabberd: 'mod_blocking',
  specs: [{ xep: 377, version: '0.4.1', status: 'complete', note: 'reports go to whoever runs this server, and to nobody else' }],
  features: [NS],
  needs: ['host', 'config', 'access', 'hooks', 'router', 'storage', 'log', 'metrics', 'now'],
  start({ host, config, access, hooks, router, storage, log, metrics, now }) {
    const reports = metrics.counter('tidings_abuse_reports_total', 'Reports of abuse', ['reason'])
    /** How many reports an account has made since when. */
    const made = new Recent<{ readonly since: number; count: number }>(10_000)

    hooks.blocked((owner, jid, item) => {
      const report = item.getChild('report', NS)
      const reason = report?.attrs['reason']?.slice(0, TEXT_MAX)
      // §3: without a reason it is none. §5: the address is blocked all the same.
      if (report === undefined || reason === undefined) return
      const texts = report.getChildren('text', NS).slice(0, TEXTS_MAX).map((each) => each.text().trim().slice(0, TEXT_MAX)).filter((each) => each !== '')
      const ids = report.getChildren('stanza-id', STANZA_ID_NS).slice(0, MESSAGES_MAX).map(({ attrs }) => (attrs['id'] ?? '').slice(0, ID_MAX)).filter((id) => id !== '')
      reports.inc(1, { reason: reason === 'urn:xmpp:reporting:spam' ? 'spam' : reason === 'urn:xmpp:reporting:abuse' ? 'abuse' : 'other' })
      log.info({ what: 'abuse_reported', owner, jid, reason, text: texts.join('\n'), messages: ids })
      // §4: others than those who run this server get it if the user agrees.
      const recipients = config.tidings.reports.sendTo.filter((to) => isOurs(to) || report.getChild('third-party', NS) !== undefined)
      if (recipients.length === 0 || !takeTurn(owner)) return
      send(recipients, { owner, jid, reason, texts, ids }).catch((error: unknown) => { log.error({ what: 'abuse_report_failed', owner, jid, error }) })
    })

    function takeTurn(owner: string): boolean {
      let mine = made.get(owner)
      if (mine === undefined || now() - mine.since > HOUR) made.set(owner, (mine = { since: now(), count: 0 }))
      return ++mine.count <= REPORTS_MAX
    }

    function isOurs(recipient: string): boolean {
      const jid = Jid.parse(recipient)
      return access.allows('local', { jid }) || jid.domain === host || jid.domain.endsWith(`.${host}`)
    }

    async function send(recipients: readonly string[], report: Report): Promise<void> {
      const { owner, jid, reason, texts } = report
      const messages = await reportedMessages(report)
      const body = [`${owner} reports ${jid}: ${reason.replace(/^urn:xmpp:reporting:/, '')}`, ...texts, ...messages.map(quoted)].join('\n')
      for (const to of recipients) {
        router.route(stanzaOf('message', { id: nextMessageId(now()), from: host, to, type: 'normal' },
          xml('body', null, body),
          xml('report', { xmlns: NS, reason }, xml('jid', { xmlns: 'urn:xmpp:jid:0' }, jid), texts.map((text) => xml('text', null, text))),
          ...fitting(messages).map(copyOf)))
      }
    }

    /** §5: those that the owner's archive has of this contact, each as it is forwarded (XEP-0297). */
    async function reportedMessages({ owner, jid, ids }: Report): Promise<Element[]> {
      const contact = Jid.parse(jid)
      const found: Element[] = []
      for (const id of ids) {
        const item = await storage.archive.get(owner, id)
        if (item === undefined || item.bytes.length === 0) continue
        const other = Jid.tryParse(item.with)
        if (contact.local === '' ? other?.domain !== contact.domain : other?.bare !== contact.bare) continue
        const message = readStanza(item.bytes).element()
        message.attrs['xmlns'] = CLIENT_NS
        const time = timeOfMessageId(id)
        found.push(xml('forwarded', { xmlns: FORWARD_NS }, time !== undefined && xml('delay', { xmlns: DELAY_NS, stamp: formatDateTime(time) }), message))
      }
      return found
    }
  },
})

interface Report {
  readonly owner: string
  /** The address that was blocked. */
  readonly jid: string
  readonly reason: string
  readonly texts: readonly string[]
  /** Archive ids of messages. */
  readonly ids: readonly string[]
}

function fitting(messages: readonly Element[]): Element[] {
  let bytes = 0
  return messages.filter((message) => (bytes += Buffer.byteLength(message.toString())) <= MESSAGES_BYTES_MAX)
}

function quoted(forwarded: Element): string {
  const body = forwarded.getChild('message', CLIENT_NS)?.getChildText('body') ?? ''
  return `> ${body.slice(0, TEXT_MAX).replaceAll('\n', '\n> ')}`
}
