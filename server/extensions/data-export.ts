// XEP-0227: Portable Import/Export Format for XMPP-IM Servers, version 1.1, for users themselves
import { mkdtemp, open, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { StanzaError } from '../../lib/stanza/errors.ts'
import { escapeXml } from '../../lib/xml/element.ts'
import type { AccountData } from '../accounts/account-data.ts'
import { defineExtension } from './extension.ts'

const NS = 'urn:xmpp:pie:0'
const NODE = 'urn:xmpp:pie:0#export'
/** How long the file can be fetched. */
const FILE_MS = 3_600_000
/** Exports that are written at the same time. */
const AT_ONCE = 2

export const dataExport = defineExtension({
  name: 'data-export',
  ejabberd: 'mod_adhoc',
  specs: [{ xep: 227, version: '1.1', status: 'complete', note: 'export and import by the operator; export by users; of privacy lists, what blocks an address' }],
  needs: ['host', 'commands', 'accountData', 'files', 'storage', 'lasting'],
  start({ host, commands, accountData, files, storage, lasting }) {
    /** Accounts whose data is being written. */
    const inWork = lasting('exports-in-work', () => new Set<string>())

    commands.add({
      node: NODE, name: 'Take your data along',
      mayRun: ({ from }) => files.available && from.domain === host && from.local !== '',
      async run({ from }) {
        const owner = from.bare
        if (inWork.has(owner) || inWork.size >= AT_ONCE) throw new StanzaError('resource-constraint', 'An export is being written already')
        if (!storage.healthy) throw new StanzaError('resource-constraint', 'The server cannot store anything at the moment')
        inWork.add(owner)
        try {
          const url = await offer(owner)
          if (url === undefined) throw new StanzaError('service-unavailable', 'The server serves no files')
          return {
            result: { title: 'Your data', instructions: `Fetch the file within ${FILE_MS / 60_000} minutes. Who has the address can fetch it too.`, fields: [{ var: 'url', type: 'text-single', label: 'Address', value: url }] },
          }
        } finally {
          inWork.delete(owner)
        }
      },
    })

    /** Written to a file first: who keeps it must be told its size. */
    async function offer(owner: string): Promise<string | undefined> {
      const folder = await mkdtemp(path.join(tmpdir(), 'tidings-export-'))
      const file = await open(path.join(folder, 'data.xml'), 'wx+', 0o600)
      try {
        // Without a name from here on, so that a process that is killed leaves nothing of it.
        await rm(folder, { recursive: true, force: true })
        await file.writeFile(document(accountData, owner))
        const { size } = await file.stat()
        return await files.offer({ owner, name: `${host}.xml`, type: 'application/xml', size, body: file.createReadStream({ start: 0 }), lifeMs: FILE_MS })
      } finally {
        await file.close()
      }
    }
  },
})

/** One account, without what is kept of its password. */
async function* document(data: AccountData, owner: string): AsyncGenerator<string> {
  const at = owner.lastIndexOf('@')
  yield `<?xml version='1.0' encoding='UTF-8'?>\n<server-data xmlns='${NS}'><host jid='${escapeXml(owner.slice(at + 1))}'><user name='${escapeXml(owner.slice(0, at))}'>`
  for await (const piece of data.write(owner)) yield `\n${piece}`
  yield '\n</user></host></server-data>\n'
}
