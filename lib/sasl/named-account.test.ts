import { expect } from 'chai'
import { namedAccount } from './named-account.ts'

const CONTEXT = { host: 'localhost' }

function named(mechanism: string, message: string | Buffer, context: Parameters<typeof namedAccount>[2] = CONTEXT, field?: string): string | undefined {
  return namedAccount(mechanism, Buffer.from(message), context, field)
}

describe('namedAccount', () => {
  it('finds the user name of PLAIN, prepared (RFC 4616 §2)', () => {
    expect(named('PLAIN', '\0Romeo\0secret')).to.equal('romeo@localhost')
    expect(named('PLAIN', 'romeo@localhost\0romeo\0secret')).to.equal('romeo@localhost')
    expect(named('PLAIN', 'romeo')).to.equal(undefined)
    expect(named('PLAIN', '\0a b\0secret')).to.equal(undefined)
  })
  it('finds the user name of SCRAM, escapes undone (RFC 5802 §5.1)', () => {
    expect(named('SCRAM-SHA-256-PLUS', 'p=tls-exporter,,n=romeo,r=abc')).to.equal('romeo@localhost')
    expect(named('SCRAM-SHA-1', 'n,a=juliet@localhost,n=a=2Cb=3Dc,r=abc')).to.equal('a,b=c@localhost')
    expect(named('SCRAM-SHA-1', 'n,,r=abc')).to.equal(undefined)
  })
  it('finds the user name before a hashed token', () => {
    expect(named('HT-SHA-256-NONE', Buffer.from([0x72, 0x6f, 0x6d, 0x65, 0x6f, 0, 0xff, 0xfe]))).to.equal('romeo@localhost')
    expect(named('HT-SHA-256-NONE', Buffer.from([0, 1]))).to.equal(undefined)
  })
  it('finds whose the certificate of EXTERNAL is, when it is for one account or one is named (XEP-0178 §2)', () => {
    const certified = ['romeo@localhost', 'juliet@localhost', 'romeo@elsewhere.example']
    expect(named('EXTERNAL', '', { ...CONTEXT, certified })).to.equal(undefined)
    expect(named('EXTERNAL', '', { ...CONTEXT, certified: certified.slice(1) })).to.equal('juliet@localhost')
    expect(named('EXTERNAL', 'romeo@localhost', { ...CONTEXT, certified })).to.equal('romeo@localhost')
    expect(named('EXTERNAL', 'mercutio@localhost', { ...CONTEXT, certified })).to.equal(undefined)
  })
  it('finds whom a bearer token is for, by what the client says or the token does (RFC 7628 §3.1)', () => {
    const token = (claims: object): string => `e30.${Buffer.from(JSON.stringify(claims)).toString('base64url')}.c2ln`
    expect(named('OAUTHBEARER', `n,a=juliet@localhost,\x01auth=Bearer ${token({ sub: 'romeo@localhost' })}\x01\x01`, CONTEXT, 'sub')).to.equal('juliet@localhost')
    expect(named('OAUTHBEARER', `n,,\x01auth=Bearer ${token({ sub: 'romeo@localhost' })}\x01\x01`, CONTEXT, 'sub')).to.equal('romeo@localhost')
    expect(named('OAUTHBEARER', `n,,\x01auth=Bearer ${token({ sub: 'romeo@elsewhere.example' })}\x01\x01`, CONTEXT, 'sub')).to.equal(undefined)
    expect(named('OAUTHBEARER', 'n,,\x01auth=Bearer e30.bm90IGpzb24.c2ln\x01\x01', CONTEXT, 'sub')).to.equal(undefined)
  })
  it('finds nobody in what is no message, or of a mechanism without names', () => {
    expect(named('PLAIN', Buffer.from([0, 0xff, 0]))).to.equal(undefined)
    expect(named('ANONYMOUS', 'romeo')).to.equal(undefined)
  })
})
