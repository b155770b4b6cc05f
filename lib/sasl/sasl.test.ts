import { expect } from 'chai'
import { createSaslClient, type SaslClientOptions } from './client.ts'
import { offerHash } from './scram.ts'
import { digest, hmac, makeScramKeys, prepareSecret, SCRAM_HASHES, xor, type ScramHash, type ScramKeys } from './scram-keys.ts'
import { createSaslServer, mechanismsFor, type Credentials, type SaslContext, type SaslResult } from './server.ts'

const ITERATIONS = 64

function fakeAccounts(users: Record<string, string>): Credentials {
  const keys = new Map<string, Promise<ScramKeys>>()
  for (const [bare, password] of Object.entries(users)) {
    for (const hash of SCRAM_HASHES) keys.set(`${hash} ${bare}`, makeScramKeys(hash, prepareSecret(password) ?? '', ITERATIONS))
  }
  return {
    exists: (bare) => Object.hasOwn(users, bare),
    checkPassword: (bare, password) => Promise.resolve(Object.hasOwn(users, bare) && users[bare] === password),
    scramKeys: (bare, hash) => keys.get(`${hash} ${bare}`),
  }
}

const accounts = fakeAccounts({ 'juliet@a.example': 'pencil', 'a=b@a.example': 'x', 'c,d@a.example': 'y', 'ünder@a.example': 'I\u00adX ª' })
const bindingData = Buffer.from('exported key material')
const channelBinding = {
  types: ['tls-exporter', 'tls-server-end-point'],
  data: (type: string) => (type === 'tls-exporter' ? bindingData : type === 'tls-server-end-point' ? Buffer.from('hash') : undefined),
}

function contextOf(change: Partial<SaslContext> = {}): SaslContext {
  return { host: 'a.example', accounts, secure: true, channelBinding, offeredPlus: true, disabled: [], ...change }
}

async function login(mechanism: string, options: SaslClientOptions, context = contextOf()): Promise<SaslResult> {
  const server = createSaslServer(mechanism, context)
  if (server === undefined) throw new Error('no such mechanism')
  const client = createSaslClient(mechanism, options)
  let input = await client.respond(Buffer.alloc(0))
  for (;;) {
    const result = await server.step(input)
    if (result.kind === 'success') client.verify(result.data)
    if (result.kind !== 'challenge') return result
    input = await client.respond(result.data)
  }
}

async function outcome(mechanism: string, messages: (string | Buffer)[], context = contextOf()): Promise<string> {
  const server = createSaslServer(mechanism, context)
  if (server === undefined) return 'invalid-mechanism'
  let result: SaslResult | undefined
  for (const message of messages) result = await server.step(Buffer.from(message))
  return result?.kind === 'failure' ? result.condition : (result?.kind ?? '')
}

/** A proper last message, changed by `change` before it is sent. */
async function finalOutcome(change: (message: string) => string): Promise<string> {
  const server = createSaslServer('SCRAM-SHA-1', contextOf())
  const client = createSaslClient('SCRAM-SHA-1', { user: 'juliet', password: 'pencil' })
  const challenge = await server?.step(await client.respond(Buffer.alloc(0)))
  if (challenge?.kind !== 'challenge') throw new Error('no challenge')
  const result = await server?.step(Buffer.from(change((await client.respond(challenge.data)).toString())))
  return result?.kind === 'failure' ? result.condition : (result?.kind ?? '')
}

describe('SASL', () => {
  it('offers what the connection can do, best first', () => {
    expect(mechanismsFor(contextOf())).to.deep.equal([
      'SCRAM-SHA-512-PLUS', 'SCRAM-SHA-256-PLUS', 'SCRAM-SHA-1-PLUS', 'SCRAM-SHA-512', 'SCRAM-SHA-256', 'SCRAM-SHA-1', 'PLAIN',
    ])
    expect(mechanismsFor(contextOf({ secure: false, channelBinding: undefined, disabled: ['scram-sha-512'] }))).to.deep.equal(['SCRAM-SHA-256', 'SCRAM-SHA-1'])
    expect(createSaslServer('PLAIN', contextOf({ secure: false }))).to.equal(undefined)
    expect(createSaslServer('SCRAM-SHA-1-PLUS', contextOf({ channelBinding: undefined }))).to.equal(undefined)
    expect(createSaslServer('ANONYMOUS', contextOf())).to.equal(undefined)
  })

  for (const mechanism of mechanismsFor(contextOf())) {
    describe(mechanism, () => {
      const binding = { type: 'tls-exporter', data: bindingData }

      it('lets the right password in', async () => {
        const result = await login(mechanism, { user: 'juliet', password: 'pencil', binding })
        expect(result).to.include({ kind: 'success', user: 'juliet' })
      })

      it('prepares the user name as a localpart', async () => {
        expect(await login(mechanism, { user: 'JULIET', password: 'pencil', binding })).to.include({ kind: 'success', user: 'juliet' })
      })

      it('knows names with = and ,', async () => {
        expect(await login(mechanism, { user: 'a=b', password: 'x', binding })).to.include({ kind: 'success', user: 'a=b' })
        expect(await login(mechanism, { user: 'c,d', password: 'y', binding })).to.include({ kind: 'success', user: 'c,d' })
      })

      it('refuses wrong passwords, unknown users and names that cannot be', async () => {
        for (const [user, password] of [['juliet', 'pencils'], ['nobody', 'pencil'], ['a@b', 'x'], ['a b', 'x']] as const) {
          expect(await login(mechanism, { user, password, binding })).to.include({ kind: 'failure', condition: 'not-authorized' })
        }
      })

      it('lets nobody act for another', async () => {
        const options = { user: 'juliet', password: 'pencil', binding }
        expect(await login(mechanism, { ...options, authzid: 'Juliet@a.example' })).to.include({ kind: 'success' })
        for (const authzid of ['romeo@a.example', 'juliet', 'juliet@b.example', 'juliet@a.example/x', '@@']) {
          expect(await login(mechanism, { ...options, authzid })).to.include({ kind: 'failure', condition: 'invalid-authzid' })
        }
      })

      it('asks a client for its first message, once', async () => {
        const server = createSaslServer(mechanism, contextOf())
        expect(await server?.step(Buffer.alloc(0))).to.deep.equal({ kind: 'challenge', data: Buffer.alloc(0) })
        expect(await server?.step(Buffer.alloc(0))).to.include({ kind: 'failure', condition: 'malformed-request' })
      })

      it('ends with its outcome', async () => {
        const server = createSaslServer(mechanism, contextOf())
        const client = createSaslClient(mechanism, { user: 'juliet', password: 'pencil', binding })
        let result = await server?.step(await client.respond(Buffer.alloc(0)))
        let last: Buffer = Buffer.alloc(0)
        if (result?.kind === 'challenge') result = await server?.step((last = await client.respond(result.data)))
        expect(result?.kind).to.equal('success')
        expect(await server?.step(last)).to.include({ kind: 'failure', condition: 'malformed-request' })
      })

      it('takes one message at a time', async () => {
        const server = createSaslServer(mechanism, contextOf())
        const first = await createSaslClient(mechanism, { user: 'juliet', password: 'pencil', binding }).respond(Buffer.alloc(0))
        const results = await Promise.all([server?.step(first), server?.step(first)])
        expect(results.map((result) => result?.kind)).to.deep.equal(['failure', 'failure'])
      })

      it('refuses what is not UTF-8, and too much', async () => {
        expect(await outcome(mechanism, [Buffer.from([0, 0xff, 0, 0x61])])).to.equal('malformed-request')
        expect(await outcome(mechanism, ['x'.repeat(10_000)])).to.equal('malformed-request')
      })
    })
  }

  it('applies SASLprep', async () => {
    // RFC 4013 §3
    expect(prepareSecret('I\u00adX')).to.equal('IX')
    expect(prepareSecret('ª')).to.equal('a')
    expect(prepareSecret('Ⅸ')).to.equal('IX')
    expect(prepareSecret('\u0007')).to.equal(undefined)
    expect(prepareSecret('\u06271')).to.equal(undefined)
    expect(prepareSecret('\u00ad')).to.equal(undefined)
    expect(await login('SCRAM-SHA-256', { user: 'ünder', password: 'IX a' })).to.include({ kind: 'success', user: 'ünder' })
  })

  it('hashes its offer as XEP-0474 shows', () => {
    expect(offerHash('SHA-1', ['SCRAM-SHA-1', 'SCRAM-SHA-1-PLUS'], ['tls-server-end-point', 'tls-exporter'])).to.equal('G6k/rBLDqgOhRRaCuuatSDFkJ08=')
  })

  it('tells in the challenge what was offered, with channel binding and without', async () => {
    for (const context of [contextOf(), contextOf({ channelBinding: undefined, offeredPlus: false })]) {
      const server = createSaslServer('SCRAM-SHA-256', context)
      const client = createSaslClient('SCRAM-SHA-256', { user: 'juliet', password: 'pencil' })
      const challenge = await server?.step(await client.respond(Buffer.alloc(0)))
      if (challenge?.kind !== 'challenge') throw new Error('no challenge')
      const expected = offerHash('SHA-256', mechanismsFor(context), context.channelBinding?.types ?? [])
      expect(challenge.data.toString()).to.match(/,i=64,h=[^,]+$/).and.satisfy((text: string) => text.endsWith(`,h=${expected}`))
      const result = await server?.step(await client.respond(challenge.data))
      expect(result?.kind).to.equal('success')
    }
  })

  it('refuses a malformed PLAIN', async () => {
    for (const message of ['x', '\0juliet', '\0juliet\0', '\0\0pencil', '\0juliet\0pencil\0', '\0juliet\0pen\0cil']) {
      expect(await outcome('PLAIN', [message]), JSON.stringify(message)).to.equal('malformed-request')
    }
  })

  it('refuses a malformed first message of SCRAM', async () => {
    for (const message of [
      'n=juliet,r=abc', 'n,n=juliet,r=abc', 'n,,n=juliet', 'n,,n=,r=abc', 'n,,r=abc,n=juliet', 'n,,n=juliet,r=', 'n,,n=juliet,r=a\u0001b',
      'n,,n=jul=iet,r=abc', 'n,,n=jul=2ciet,r=abc', 'n,,n=juliet,r=ab c', 'n,a=,n=juliet,r=abc', 'z,,n=juliet,r=abc', 'p=,,n=juliet,r=abc',
      'n,,m=x,n=juliet,r=abc', 'n,,n=jul\0iet,r=abc', 'n,juliet,n=juliet,r=abc', 'n,,n=juliet,r=abc,x', 'n,,n=juliet,r=abc,',
    ]) {
      expect(await outcome('SCRAM-SHA-1', [message]), message).to.equal('malformed-request')
    }
    expect(await outcome('SCRAM-SHA-1', ['n,,n=juliet,r=abc,x=future'])).to.equal('challenge')
  })

  it('watches over channel binding', async () => {
    // A client that could bind, to a server that offered it.
    expect(await outcome('SCRAM-SHA-1', ['y,,n=juliet,r=abc'])).to.equal('not-authorized')
    expect(await login('SCRAM-SHA-1', { user: 'juliet', password: 'pencil', couldBind: true }, contextOf({ offeredPlus: false }))).to.include({ kind: 'success' })
    const disabled = ['SCRAM-SHA-1-PLUS', 'SCRAM-SHA-256-PLUS', 'SCRAM-SHA-512-PLUS']
    expect(await outcome('SCRAM-SHA-1', ['y,,n=juliet,r=abc'], contextOf({ disabled }))).to.equal('challenge')
    expect(await outcome('SCRAM-SHA-1', ['p=tls-exporter,,n=juliet,r=abc'])).to.equal('malformed-request')
    expect(await outcome('SCRAM-SHA-1-PLUS', ['n,,n=juliet,r=abc'])).to.equal('malformed-request')
    expect(await outcome('SCRAM-SHA-1-PLUS', ['y,,n=juliet,r=abc'])).to.equal('malformed-request')
    expect(await outcome('SCRAM-SHA-1-PLUS', ['p=tls-unique,,n=juliet,r=abc'])).to.equal('not-authorized')
    const options = { user: 'juliet', password: 'pencil' }
    const other = await login('SCRAM-SHA-256-PLUS', { ...options, binding: { type: 'tls-exporter', data: Buffer.from('another connection') } })
    expect(other).to.include({ kind: 'failure', condition: 'not-authorized' })
    const confused = await login('SCRAM-SHA-256-PLUS', { ...options, binding: { type: 'tls-server-end-point', data: bindingData } })
    expect(confused).to.include({ kind: 'failure', condition: 'not-authorized' })
  })

  it('refuses a last message of SCRAM that is not right', async () => {
    expect(await finalOutcome((message) => message)).to.equal('success')
    // The header of another first message.
    expect(await finalOutcome((message) => message.replace('c=biws', 'c=eSws'))).to.equal('not-authorized')
    expect(await finalOutcome((message) => message.replace(',r=', ',r=x'))).to.equal('not-authorized')
    expect(await finalOutcome((message) => message.replace(/,r=[^,]+/, ',r=abc'))).to.equal('not-authorized')
    expect(await finalOutcome((message) => message.replace(',p=', ',x=y,p='))).to.equal('not-authorized')
    expect(await finalOutcome((message) => message.replace(/p=.*/, `p=${Buffer.alloc(20).toString('base64')}`))).to.equal('not-authorized')
    expect(await finalOutcome((message) => message.replace(/p=.*/, 'p=AAAA'))).to.equal('malformed-request')
    expect(await finalOutcome((message) => message.replace('c=biws', 'c=biw'))).to.equal('malformed-request')
    expect(await finalOutcome((message) => message.replace(/,p=.*/, ''))).to.equal('malformed-request')
    expect(await finalOutcome((message) => `${message},x=y`)).to.equal('malformed-request')
    expect(await finalOutcome(() => '')).to.equal('malformed-request')
  })

  it('shows an unknown user the same salt each time', async () => {
    const salts = new Set<string>()
    for (const name of ['nobody', 'nobody', 'NOBODY', 'somebody']) {
      const result = await createSaslServer('SCRAM-SHA-1', contextOf())?.step(Buffer.from(`n,,n=${name},r=abc`))
      salts.add(result?.kind === 'challenge' ? (/s=([^,]+)/.exec(result.data.toString())?.[1] ?? '') : 'none')
    }
    expect(salts.size).to.equal(2)
    expect([...salts].every((salt) => Buffer.from(salt, 'base64').length === 16)).to.equal(true)
  })

  const vectors: [ScramHash, string, string, string, string, string][] = [
    // RFC 5802 §5
    ['SHA-1', 'QSXCR+Q6sek8bf92', 'fyko+d2lbbFgONRv9qkxdawL', '3rfcNHYJY1ZVvWVs7j', 'v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=', 'rmF9pqV8S7suAoZWja4dJRkFsKQ='],
    // RFC 7677 §3
    ['SHA-256', 'W22ZaJ0SNY7soEsUEjb6gQ==', 'rOprNGfwEbeRWgbNEkqO', '%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0', 'dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=', '6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4='],
  ]
  for (const [hash, salt, clientNonce, serverNonce, proof, signature] of vectors) {
    it(`makes the keys of the RFC's example for ${hash}`, async () => {
      const keys = await makeScramKeys(hash, 'pencil', 4096, Buffer.from(salt, 'base64'))
      const nonce = clientNonce + serverNonce
      const message = `n=user,r=${clientNonce},r=${nonce},s=${salt},i=4096,c=biws,r=${nonce}`
      expect(hmac(hash, keys.serverKey, message).toString('base64')).to.equal(signature)
      const clientKey = xor(Buffer.from(proof, 'base64'), hmac(hash, keys.storedKey, message))
      expect(digest(hash, clientKey).equals(keys.storedKey)).to.equal(true)
    })
  }
})
