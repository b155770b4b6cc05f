/** A certificate for 127.0.0.1 and localhost, signed by itself. */
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { generate } from 'selfsigned'

/** Makes it in the folder unless it is there: `certificate.pem`, `key.pem`, and `both.pem`. Answers the certificate. */
export async function selfSigned(dir: string): Promise<string> {
  const file = path.join(dir, 'certificate.pem')
  if (existsSync(file)) return readFileSync(file, 'utf8')
  const made = await generate([{ name: 'commonName', value: 'localhost' }], {
    keyType: 'ec',
    curve: 'P-256',
    algorithm: 'sha256',
    extensions: [
      { name: 'basicConstraints', cA: true },
      { name: 'subjectAltName', altNames: [{ type: 2, value: 'localhost' }, { type: 7, ip: '127.0.0.1' }] },
    ],
  })
  writeFileSync(path.join(dir, 'key.pem'), made.private, { mode: 0o600 })
  writeFileSync(path.join(dir, 'both.pem'), made.private + made.cert, { mode: 0o600 })
  writeFileSync(file, made.cert)
  return made.cert
}
