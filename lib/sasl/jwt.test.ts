import { generateKeyPairSync, randomBytes } from 'node:crypto'
import { expect } from 'chai'
import { exportJWK, SignJWT, UnsecuredJWT } from 'jose'
import { createJwtCheck } from './jwt.ts'

const NOW = Date.parse('2026-01-01T00:00:00Z')

describe('JSON Web Tokens', () => {
  const secret = randomBytes(32)
  const oct = { kty: 'oct', k: secret.toString('base64url') }
  const pair = generateKeyPairSync('ec', { namedCurve: 'P-256' })
  const check = (key: unknown, jidField = 'jid') => createJwtCheck(JSON.stringify(key), { jidField, now: () => NOW })
  const make = (claims: Record<string, unknown>, { alg = 'HS256', key = secret as Parameters<SignJWT['sign']>[0], exp = NOW / 1000 + 60, kid }: { alg?: string; key?: Parameters<SignJWT['sign']>[0]; exp?: number | undefined; kid?: string } = {}): Promise<string> => {
    const token = new SignJWT(claims).setProtectedHeader({ alg, ...(kid === undefined ? {} : { kid }) })
    return (Number.isNaN(exp) ? token : token.setExpirationTime(exp)).sign(key)
  }

  it('one that is signed with the key, and has not ended, is for the account that it names', async () => {
    expect(await check(oct)(await make({ jid: 'Juliet@Example.NET' }))).to.equal('juliet@example.net')
    expect(await check(oct, 'sub')(await make({ sub: 'romeo@example.net' }))).to.equal('romeo@example.net')
    const publicKey = await exportJWK(pair.publicKey)
    for (const key of [publicKey, { keys: [{ ...publicKey, kid: 'a' }, { ...oct, kid: 'b' }] }]) expect(await check(key)(await make({ jid: 'juliet@example.net' }, { alg: 'ES256', key: pair.privateKey }))).to.equal('juliet@example.net')
    expect(await check({ keys: [{ ...publicKey, kid: 'a' }, { ...oct, kid: 'b' }] })(await make({ jid: 'juliet@example.net' }, { kid: 'b' }))).to.equal('juliet@example.net')
  })

  it('no other is', async () => {
    const publicKey = await exportJWK(pair.publicKey)
    const jid = 'juliet@example.net'
    const wrong: [string, unknown, string][] = [
      ['another key', oct, await make({ jid }, { key: randomBytes(32) })],
      ['it has ended', oct, await make({ jid }, { exp: NOW / 1000 - 1 })],
      ['it has no end', oct, await make({ jid }, { exp: Number.NaN })],
      ['no account', oct, await make({ sub: jid })],
      ['no address', oct, await make({ jid: '@' })],
      ['a host', oct, await make({ jid: 'example.net' })],
      ['a session', oct, await make({ jid: `${jid}/x` })],
      ['no text', oct, await make({ jid: 7 })],
      ['no signature', oct, new UnsecuredJWT({ jid }).setExpirationTime(NOW / 1000 + 60).encode()],
      // The public key is no secret.
      ['a public key taken for a secret', publicKey, await make({ jid }, { key: pair.publicKey.export({ type: 'spki', format: 'der' }) })],
      ['another algorithm than that of the key', { ...oct, alg: 'HS512' }, await make({ jid })],
      ['another key than it names', { ...oct, kid: 'a' }, await make({ jid }, { kid: 'b' })],
      ['nonsense', oct, 'a.b.c'],
    ]
    for (const [why, key, token] of wrong) expect(await check(key)(token), why).to.equal(undefined)
  })

  it('a file that holds no key is said to', () => {
    for (const text of ['', '[]', '{}', '{"keys":[]}', '{"kty":"oct"}', 'null']) expect(() => createJwtCheck(text, { jidField: 'jid' }), text).to.throw()
  })
})
