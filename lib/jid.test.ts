import { expect } from 'chai'
import fc from 'fast-check'
import { Jid, JidError } from './jid.ts'

const valid: [string, string][] = [
  ['juliet@example.com', 'juliet@example.com'],
  ['Juliet@Example.COM/Foo', 'juliet@example.com/Foo'],
  ['juliet@example.com/foo bar', 'juliet@example.com/foo bar'],
  ['juliet@example.com/foo@bar/baz', 'juliet@example.com/foo@bar/baz'],
  ['foo\\20bar@example.com', 'foo\\20bar@example.com'],
  ['fußball@example.com', 'fußball@example.com'],
  ['π@example.com', 'π@example.com'],
  ['Σ@example.com/foo', 'σ@example.com/foo'],
  ['ς@example.com/foo', 'ς@example.com/foo'],
  ['king@example.com/♚', 'king@example.com/♚'],
  ['example.com', 'example.com'],
  ['a.example.com/b@example.net', 'a.example.com/b@example.net'],
  ['server/resource@foo/bar', 'server/resource@foo/bar'],
  ['user@example.com.', 'user@example.com'],
  ['user@example。com', 'user@example.com'],
  ['user@192.168.1.1', 'user@192.168.1.1'],
  ['user@[2001:DB8:0:0::1]', 'user@[2001:db8::1]'],
  ['user@[fe80::1%25eth0]', 'user@[fe80::1%25eth0]'],
  ['user@XN--BCHER-KVA.example', 'user@bücher.example'],
  ['user@bücher.example', 'user@bücher.example'],
  ['ｊｕｌｉｅｔ@example.com', 'juliet@example.com'],
  ['e\u0301@example.com', 'é@example.com'],
  ['u@example.com/a\u00a0b', 'u@example.com/a b'],
  ['u@example.com/e\u0301Ⅳ', 'u@example.com/éⅣ'],
  ['שלום@example.com', 'שלום@example.com'],
  ['l·l@example.com', 'l·l@example.com'],
  ['カ・カ@example.com', 'カ・カ@example.com'],
  ['ｶﾞ@example.com', 'ガ@example.com'],
  ['u@example.com/\u06f1\u06f2', 'u@example.com/\u06f1\u06f2'],
  ['u@example.com/\u0915\u094d\u200d\u0937', 'u@example.com/\u0915\u094d\u200d\u0937'],
  ['u@example.com/\u0628\u200c\u0628', 'u@example.com/\u0628\u200c\u0628'],
  ['u@example.com/\u0375\u03b1', 'u@example.com/\u0375\u03b1'],
  ['u@localhost', 'u@localhost'],
  [`${'a'.repeat(1023)}@b/${'c'.repeat(1023)}`, `${'a'.repeat(1023)}@b/${'c'.repeat(1023)}`],
]

const invalid = [
  '', '@', '/', '.', '@example.com', 'juliet@', 'juliet@/x', '/foobar', 'user@example.com/', 'user@host@host', 'user@@host',
  '"juliet"@example.com', 'foo bar@example.com', 'a&b@example.com', "a'b@example.com", 'a:b@example.com', 'a<b@example.com',
  'a>b@example.com', 'henryⅣ@example.com', '♚@example.com', 'a·b@example.com', 'א1a@example.com', 'a\u200db@example.com',
  'u@ex..a', 'a・b@example.com', 'u@example.com/\u0661\u06f2', 'u@example.com/a\u200cb', 'u@example.com/\u0375a', 'u@example.com/a\u05f3', 'u@.example', 'u@-a.example', 'u@a-.example', 'u@exa mple', 'u@exa_mple', 'u@♥.example', 'u@xn--a', 'u@ab--cd.example',
  'u@[::1', 'u@[1.2.3.4]', 'u@::1', 'u@example.com/a\u0007b', 'u@example.com/\u200d', 'u@example.com/\ud800', '\udc00@example.com',
  'u\u0000@example.com', 'u＠x@example.com', `${'a'.repeat(1024)}@b`, `${'é'.repeat(512)}@b`, `a@b/${'é'.repeat(512)}`,
  `a@${'a'.repeat(64)}`, `a@${'ü'.repeat(63)}`, `a@${'abc.'.repeat(256)}de`, 'x'.repeat(100_000),
]

describe('Jid', () => {
  for (const [text, prepared] of valid) {
    it(`prepares ${text.slice(0, 40)}`, () => expect(Jid.parse(text).toString()).to.equal(prepared))
  }

  for (const text of invalid) {
    it(`refuses ${JSON.stringify(text).slice(0, 40)}`, () => {
      expect(() => Jid.parse(text)).to.throw(JidError)
      expect(Jid.tryParse(text)).to.equal(undefined)
    })
  }

  it('has parts', () => {
    const jid = Jid.parse('Romeo@Montague.example/Orchard')
    expect([jid.local, jid.domain, jid.resource, jid.bare]).to.deep.equal(['romeo', 'montague.example', 'Orchard', 'romeo@montague.example'])
    expect(jid.toBare().toString()).to.equal('romeo@montague.example')
    expect(jid.withResource('x').toString()).to.equal('romeo@montague.example/x')
    expect(jid.withResource('').equals(jid.toBare())).to.equal(true)
    expect(jid.equals(Jid.of('ROMEO', 'montague.EXAMPLE', 'Orchard'))).to.equal(true)
    expect(jid.equals(jid.toBare())).to.equal(false)
    expect(Jid.of('', 'a.example').bare).to.equal('a.example')
  })

  it('does not split parts given apart', () => {
    expect(() => Jid.of('a@b', 'c')).to.throw(JidError)
    expect(() => Jid.of('a', 'b/c')).to.throw(JidError)
    expect(() => Jid.of('a', '')).to.throw(JidError)
  })

  it('is stable: a prepared address is its own preparation', () => {
    const part = fc.oneof(fc.string({ unit: 'grapheme', minLength: 1, maxLength: 8 }), fc.string({ unit: 'binary', minLength: 1, maxLength: 4 }))
    const domain = fc.oneof(fc.domain(), part, fc.ipV4(), fc.ipV6().map((address) => `[${address}]`))
    let accepted = 0
    fc.assert(
      fc.property(part, domain, part, (local, name, resource) => {
        for (const text of [`${local}@${name}/${resource}`, `${local}@a.example`, name, `a.example/${resource}`]) {
          const jid = Jid.tryParse(text)
          if (jid === undefined) continue
          accepted++
          const again = Jid.parse(jid.toString())
          expect(again.toString()).to.equal(jid.toString())
          expect([again.local, again.domain, again.resource]).to.deep.equal([jid.local, jid.domain, jid.resource])
          expect(Jid.of(jid.local, jid.domain, jid.resource).toString()).to.equal(jid.toString())
        }
      }),
      { numRuns: 500 },
    )
    expect(accepted).to.be.greaterThan(100)
  })

  it('refuses hostile texts quickly', () => {
    const start = performance.now()
    for (const unit of ['\u0661', '\u200c', '\u30fb', '\u0628\u200c\u0628', 'ä', 'ä.', '.', '-', 'xn--', 'a-', '\u0628']) {
      for (const size of [100, 511, 2046, 20_000]) {
        const text = unit.repeat(size).slice(0, size)
        for (const jid of [`${text}@a`, `u@${text}`, `u@a/${text}\u0007`]) Jid.tryParse(jid)
      }
    }
    expect(performance.now() - start).to.be.lessThan(1500)
  })

  it('forgets old addresses', () => {
    const first = Jid.parse('cached@a.example')
    expect(Jid.parse('cached@a.example')).to.equal(first)
    for (let i = 0; i < 20_001; i++) Jid.parse(`n${i}@a.example`)
    expect(Jid.parse('cached@a.example')).not.to.equal(first)
  })
})
