// XEP-0157: Contact Addresses for XMPP Services, version 1.1.1 (2021-03-04)
import { type Element, xml } from '../../lib/xml/element.ts'
import { list, record, text } from '../config/options.ts'
import { defineExtension } from './extension.ts'

const FORM_TYPE = 'http://jabber.org/network/serverinfo'

export interface ServerInfo {
  readonly modules: readonly string[]
  readonly name: string
  readonly urls: readonly string[]
}

export const contactAddresses = defineExtension({
  name: 'contact-addresses',
  ejabberd: 'mod_disco',
  specs: [{ xep: 157, version: '1.1.1', status: 'complete' }],
  needs: ['disco'],
  options: {
    server_info: {
      type: list(record<ServerInfo>({
        modules: { type: list(text()), default: ['all'], help: 'Whose answers carry it: all, or mod_disco for the host.' },
        name: { type: text(), default: '', help: 'The field, such as abuse-addresses.' },
        urls: { type: list(text()), default: [], help: 'Addresses as URIs: mailto:…, xmpp:…, https:….' },
      })),
      default: [] as readonly ServerInfo[],
      help: 'How to reach whoever runs the server.',
    },
    extra_domains: { type: list(text()), default: [] as readonly string[], help: 'More items in the list of services of the host.' },
    name: { type: text(), default: '', help: 'The name the host gives itself.' },
  },
  start({ disco }, options) {
    const shown = options.server_info.filter((info) => info.name !== '' && (info.modules.includes('all') || info.modules.includes('mod_disco')))
    if (shown.length > 0) disco.form('host', () => serverInfoForm(shown))
    for (const jid of options.extra_domains) disco.item('host', { jid })
    if (options.name !== '') disco.identity('host', { category: 'server', type: 'im', name: options.name })
  },
})

/** The form of XEP-0157 §3. */
export function serverInfoForm(infos: readonly ServerInfo[]): Element {
  return xml('x', { xmlns: 'jabber:x:data', type: 'result' },
    xml('field', { type: 'hidden', var: 'FORM_TYPE' }, xml('value', null, FORM_TYPE)),
    infos.map((info) => xml('field', { type: 'list-multi', var: info.name }, info.urls.map((url) => xml('value', null, url)))))
}
