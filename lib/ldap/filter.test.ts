import { expect } from 'chai'
import fc from 'fast-check'
import { FilterParser } from 'ldapts'
import { escapeDnValue, fill, fillFilter, normalFilter, userIn } from './filter.ts'

describe('filters of LDAP (RFC 4515)', () => {
  it('§3 a value stays a value, whatever is in it', () => {
    expect(fillFilter('(uid=%u)', { '%u': '*' })).to.equal('(uid=\\2a)')
    expect(fillFilter('(uid=%u)', { '%u': 'a)(uid=*' })).to.equal('(uid=a\\29\\28uid=\\2a)')
    fc.assert(fc.property(fc.string({ unit: fc.constantFrom('*', '(', ')', '\\', '\0', '%u', ' ', 'a', '=', 'é', '😀'), minLength: 1, maxLength: 12 }), (value) => {
      const filter = FilterParser.parseString(fillFilter('(&(uid=%u)(objectClass=person))', { '%u': value })) as unknown as { filters: { attribute: string; value: string }[] }
      expect(filter.filters).to.have.length(2)
      expect(filter.filters[0]).to.include({ attribute: 'uid', value })
    }))
  })

  it('fills each placeholder once, and does not look into values', () => {
    expect(fill('%u@%d is %s of %s, %x', { '%u': '%d', '%d': 'example.org', '%s': ['one', '%u'] })).to.equal('%d@example.org is one of %u, %x')
  })

  it('finds the user in a value of a format', () => {
    expect(userIn('juliet', '%u')).to.equal('juliet')
    expect(userIn('juliet@Mail.example.org', '%u@mail.example.org')).to.equal('juliet')
    expect(userIn('uid=juliet,ou=people', 'uid=%u,ou=people')).to.equal('juliet')
    for (const value of ['juliet', '@mail.example.org', 'juliet@example.org']) expect(userIn(value, '%u@mail.example.org')).to.equal(undefined)
  })

  it('says what is no filter', () => {
    expect(normalFilter(' (& (objectClass=person)\n  (|(a=*)(!(b:dn:2.4.6:=c))(sn=Zo\\c3\\ab)) ) ')).to.equal('(&(objectClass=person)(|(a=*)(!(b:dn:2.4.6:=c))(sn=Zoë)))')
    for (const wrong of ['', 'uid=%u', '(uid=%u', '(uid=%u))', '(&)', '(!(a=b)(c=d))', '(a)', '(a=b)(c=d)', '(a=\\zz)', '(=b)', `${'(!'.repeat(60)}(a=b)${')'.repeat(60)}`]) {
      expect(() => normalFilter(wrong), wrong).to.throw()
    }
  })

  it('a value in a distinguished name does not end it (RFC 4514 §2.4)', () => {
    expect(escapeDnValue('a,ou=x')).to.equal('a\\2cou\\3dx')
    expect(escapeDnValue(' #a ')).to.equal('\\ #a\\ ')
  })
})
