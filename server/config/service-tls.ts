/** TLS to a service that is somebody else's, of a certain form in several parts of the key `tidings`. */
import { resolve } from 'node:path'
import { bool, text, type OptionTable } from './options.ts'

export interface TlsNames { cafile: string; certfile: string; keyfile: string; verify: boolean }

/** Files are PEM; undefined is what Node trusts, and no certificate of ours. */
export interface ServiceTls {
  readonly caFile: string | undefined
  readonly certFile: string | undefined
  readonly keyFile: string | undefined
  readonly verify: boolean
}

export const tlsTable: OptionTable<TlsNames> = {
  cafile: { type: text(), default: '', help: 'PEM file of who signs the servers\' certificates; unless set, those that Node trusts.' },
  certfile: { type: text(), default: '', help: 'PEM file of our certificate, for servers that want one.' },
  keyfile: { type: text(), default: '', help: 'PEM file of its key.' },
  verify: { type: bool(), default: true, help: 'Whether the servers\' certificates are checked.' },
}

/** Files are relative to the folder of the configuration. `true` is TLS with nothing set. */
export function tlsOptions(read: boolean | TlsNames, folder: string): ServiceTls | undefined {
  if (read === false) return undefined
  const { cafile, certfile, keyfile, verify } = read === true ? { cafile: '', certfile: '', keyfile: '', verify: true } : read
  const file = (name: string): string | undefined => name === '' ? undefined : resolve(folder, name)
  return { caFile: file(cafile), certFile: file(certfile), keyFile: file(keyfile), verify }
}
