import { expect } from 'chai'
import { StanzaError } from '../../lib/stanza/errors.ts'
import type { Captchas } from '../captcha/captchas.ts'
import type { Parts } from './extension.ts'
import { conditionOf, fakeParts, stanza } from './fake-parts.ts'
import { entropyOf, register } from './register.ts'

const query = (content = '') => `<query xmlns='jabber:iq:register'>${content}</query>`
const account = (username: string, password = 'secret') => query(`<username>${username}</username><password>${password}</password>`)
const juliet = 'juliet@example.net'

describe('XEP-0077 in-band registration', () => {
  function stage(options: Record<string, unknown> = {}, others: Partial<Parts> = {}) {
    const fake = fakeParts()
    fake.start(register, options, others)
    const stranger = async (type: 'get' | 'set', payload: string, address = '192.0.2.7') => (await fake.nonzas.before('jabber:iq:register query')!(
      { address, secure: true, host: 'example.net', close: () => undefined },
      stanza(`<iq xmlns='jabber:client' type='${type}' id='r1' to='example.net'>${payload}</iq>`),
    )).element()
    return { fake, stranger }
  }

  it('§5: a stream feature before login, for addresses that may', () => {
    const { fake } = stage({ ip_access: 'local' })
    expect(fake.features.before({ secure: true, address: '192.0.2.7' })).to.equal("<register xmlns='http://jabber.org/features/iq-register'/>")
    fake.allowed.rules = (rule) => rule !== 'local'
    expect(fake.features.before({ secure: true, address: '192.0.2.7' })).to.equal('')
  })

  it('§3.1: asks for username and password and makes the account', async () => {
    const { fake, stranger } = stage()
    const form = (await stranger('get', query())).getChild('query')
    expect(form?.getChildElements().map((child) => child.getName())).to.deep.equal(['instructions', 'username', 'password'])
    expect((await stranger('set', account('Juliet'))).attrs).to.include({ type: 'result', id: 'r1' })
    expect(await fake.accounts.checkPassword(juliet, 'secret')).to.equal(true)
  })

  it('§3.2: nobody can be removed before login', async () => {
    expect(conditionOf(await stage().stranger('set', query('<remove/>')))).to.equal('unexpected-request')
  })

  it('§3.1: a name that is taken conflicts, one that cannot be is malformed, missing fields are not acceptable', async () => {
    const { fake, stranger } = stage()
    await fake.accounts.register(juliet, 'secret')
    const conflict = await stranger('set', account('juliet'))
    expect(conditionOf(conflict)).to.equal('conflict')
    expect(conflict.getChild('error')?.getChild('text'), 'nothing that the condition does not say').to.equal(undefined)
    expect(conditionOf(await stranger('set', account('a@b')))).to.equal('jid-malformed')
    expect(conditionOf(await stranger('set', query('<username>a</username>')))).to.equal('not-acceptable')
    // None of these has used up the address's turn.
    expect((await stranger('set', account('romeo'))).attrs['type']).to.equal('result')
  })

  it('one address registers once in registration_timeout', async () => {
    const { fake, stranger } = stage()
    expect((await stranger('set', account('a'))).attrs['type']).to.equal('result')
    expect(conditionOf(await stranger('set', account('b')))).to.equal('resource-constraint')
    expect((await stranger('set', account('b'), '192.0.2.8')).attrs['type']).to.equal('result')
    fake.clock.now += 600_000
    expect((await stranger('set', account('c'))).attrs['type']).to.equal('result')
  })

  it('refuses by access, ip_access and password_strength', async () => {
    const { fake, stranger } = stage({ access: 'names', ip_access: 'nets', password_strength: 60 })
    expect(conditionOf(await stranger('set', account('a', 'short')))).to.equal('not-acceptable')
    fake.allowed.rules = (rule) => rule !== 'names'
    expect(conditionOf(await stranger('set', account('a', 'Long-enough-1234')))).to.equal('forbidden')
    fake.allowed.rules = (rule) => rule !== 'nets'
    expect(conditionOf(await stranger('get', query()))).to.equal('forbidden')
  })

  describe('with captcha_protected (XEP-0158 §4)', () => {
    /** The answer, which the part keeps to itself. */
    const captchas = (limit = Infinity) => {
      const texts = new Map<string, string>()
      return {
        texts,
        part: {
          make: () => {
            if (texts.size >= limit) return Promise.reject(new StanzaError('resource-constraint', 'Please wait'))
            const id = `c${texts.size}`
            texts.set(id, `00000${texts.size}`)
            return Promise.resolve({ id, cid: `sha1+${id}@bob.xmpp.org`, picture: { type: 'image/png', bytes: Buffer.from('picture'), width: 10, height: 5 } })
          },
          find: (cid: string) => ({ id: 'c0', cid, picture: { type: 'image/png', bytes: Buffer.from('picture') } }),
          check: (id: string, answer: string) => { const text = texts.get(id); texts.delete(id); return text === answer },
        } satisfies Captchas,
      }
    }
    const submit = (fields: Record<string, string>) => query(`<x xmlns='jabber:x:data' type='submit'><field var='FORM_TYPE'><value>jabber:iq:register</value></field>${Object.entries(fields).map(([name, value]) => `<field var='${name}'><value>${value}</value></field>`).join('')}</x>`)
    const protectedStage = (part: Captchas) => stage({ captcha_protected: true }, { captchas: part })

    it('asks by a form alone, with the picture beside it', async () => {
      const answer = (await protectedStage(captchas().part).stranger('get', query())).getChild('query')
      expect(answer?.getChildElements().map((child) => child.getName())).to.deep.equal(['instructions', 'x', 'data'])
      const fields = answer?.getChild('x')?.getChildren('field')
      expect(fields?.map((field) => field.attrs['var'])).to.deep.equal(['FORM_TYPE', 'username', 'password', 'challenge', 'sid', 'ocr'])
      expect(fields?.find((field) => field.attrs['var'] === 'sid')?.getChildText('value')).to.equal('r1')
      const media = fields?.at(-1)?.getChild('media', 'urn:xmpp:media-element')
      expect(media?.attrs).to.include({ width: '10', height: '5' })
      expect(media?.getChild('uri')?.toString()).to.equal('<uri type="image/png">cid:sha1+c0@bob.xmpp.org</uri>')
      expect(answer?.getChild('data', 'urn:xmpp:bob')?.attrs).to.include({ cid: 'sha1+c0@bob.xmpp.org', type: 'image/png', 'max-age': '0' })
      expect(answer?.getChildText('data')).to.equal(Buffer.from('picture').toString('base64'))
    })

    it('makes an account for the right answer, at the first try', async () => {
      const { part } = captchas()
      const { fake, stranger } = protectedStage(part)
      const user = { username: 'juliet', password: 'secret' }
      await stranger('get', query())
      const wrong = await stranger('set', submit({ ...user, challenge: 'c0', ocr: '123456' }))
      expect([conditionOf(wrong), wrong.getChild('error')?.getChildText('text')]).to.deep.equal(['not-acceptable', 'The captcha was not answered correctly, or too late'])
      expect(conditionOf(await stranger('set', submit({ ...user, challenge: 'c0', ocr: '000000' }))), 'one try').to.equal('not-acceptable')
      expect(conditionOf(await stranger('set', account('juliet'))), 'without the form').to.equal('not-acceptable')
      await stranger('get', query())
      expect((await stranger('set', submit({ ...user, challenge: 'c0', ocr: '000000' }))).attrs['type']).to.equal('result')
      expect(await fake.accounts.checkPassword(juliet, 'secret')).to.equal(true)
    })

    it('an address that asks too often waits', async () => {
      expect(conditionOf(await protectedStage(captchas(0).part).stranger('get', query()))).to.equal('resource-constraint')
    })

    it('XEP-0231 §2.2: the picture can be asked for', async () => {
      const { fake } = protectedStage(captchas().part)
      const answer = await fake.nonzas.before('urn:xmpp:bob data')!({ address: '', secure: true, host: 'example.net', close: () => undefined }, stanza("<iq xmlns='jabber:client' type='get' id='b'><data xmlns='urn:xmpp:bob' cid='sha1+x@bob.xmpp.org'/></iq>"))
      expect(answer.element().getChildText('data')).to.equal(Buffer.from('picture').toString('base64'))
    })
  })

  it('§6: redirects when it is told where to', async () => {
    const { stranger } = stage({ redirect_url: 'https://example.net/join' })
    expect((await stranger('get', query())).getChild('query')?.getChild('x', 'jabber:x:oob')?.getChildText('url')).to.equal('https://example.net/join')
    expect(conditionOf(await stranger('set', account('a')))).to.equal('not-allowed')
  })

  it('greets new accounts and tells the watchers', async () => {
    const { fake, stranger } = stage({ welcome_message: { subject: 'Hi', body: 'Welcome' }, registration_watchers: ['admin@example.net'] })
    await stranger('set', account('juliet'))
    expect(fake.routed.map((each) => [each.from, each.to, each.element().getChildText('body')?.slice(0, 11)])).to.deep.equal([
      ['example.net', juliet, 'Welcome'], ['example.net', 'admin@example.net', 'The account'],
    ])
  })

  it('§3.1.1 and §3.3: an account learns that it is registered and changes its password', async () => {
    const { fake } = stage()
    await fake.accounts.register(juliet, 'secret')
    fake.login(`${juliet}/a`)
    const answer = (await fake.ask(`${juliet}/a`, 'get', query(), 'example.net')).getChild('query')
    expect(answer?.getChildElements().map((child) => child.getName())).to.deep.equal(['instructions', 'registered', 'username', 'password'])
    expect(answer?.getChildText('username')).to.equal('juliet')
    expect((await fake.ask(`${juliet}/a`, 'set', account('juliet', 'new one'), 'example.net')).attrs['type']).to.equal('result')
    expect(await fake.accounts.checkPassword(juliet, 'new one')).to.equal(true)
    expect(conditionOf(await fake.ask(`${juliet}/a`, 'set', query('<username>juliet</username>'), 'example.net'))).to.equal('bad-request')
    expect(conditionOf(await fake.ask(`${juliet}/a`, 'set', account('romeo')))).to.equal('forbidden')
    expect(conditionOf(await fake.ask('tybalt@example.org/a', 'get', query(), 'example.net'))).to.equal('not-allowed')
  })

  it('§3: an account can do nothing to another one, whose address it may write', async () => {
    const { fake } = stage()
    await fake.accounts.register(juliet, 'secret')
    await fake.accounts.register('romeo@example.net', 'secret')
    fake.login(`${juliet}/a`)
    for (const [type, payload] of [['get', query()], ['set', account('juliet', 'taken over')], ['set', account('romeo', 'taken over')], ['set', account('new')], ['set', query('<remove/>')]] as const) {
      expect(conditionOf(await fake.ask(`${juliet}/a`, type, payload, 'romeo@example.net')), payload).to.equal('forbidden')
    }
    // Its own bare address stands for the server.
    expect((await fake.ask(`${juliet}/a`, 'set', account('juliet', 'new one'), juliet)).attrs['type']).to.equal('result')
    expect(await Promise.all([fake.accounts.checkPassword('romeo@example.net', 'secret'), fake.accounts.checkPassword(juliet, 'new one'), fake.accounts.exists('new@example.net')])).to.deep.equal([true, true, false])
  })

  it('§3.2: an account removes itself, hears of it first, and only with remove alone', async () => {
    const { fake } = stage({ access_remove: 'removers' })
    await fake.accounts.register(juliet, 'secret')
    const session = fake.login(`${juliet}/a`)
    expect(conditionOf(await fake.ask(`${juliet}/a`, 'set', query('<remove/><username>x</username>')))).to.equal('bad-request')
    fake.allowed.rules = (rule) => rule !== 'removers'
    expect(conditionOf(await fake.ask(`${juliet}/a`, 'set', query('<remove/>')))).to.equal('forbidden')
    fake.allowed.rules = () => true
    await fake.ask(`${juliet}/a`, 'set', query('<remove/>'))
    expect(session.sent[0]?.type).to.equal('result')
    expect(await fake.accounts.exists(juliet)).to.equal(false)
  })

  it('counts entropy', () => {
    expect(entropyOf('')).to.equal(0)
    expect(Math.round(entropyOf('aaaaaaaa'))).to.equal(38)
    expect(entropyOf('aA1!é')).to.be.greaterThan(entropyOf('aaaaa'))
  })
})
