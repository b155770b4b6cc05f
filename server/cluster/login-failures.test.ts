import { expect } from 'chai'
import { Connection } from '../../lib/client/connection.ts'
import { TEST_CONFIG } from '../test-server.ts'
import { type Site, Sites, until } from './sites.fixture.ts'

const CONFIG = TEST_CONFIG.replace('  mod_bosh: {}\n', '').replace('modules:', 'modules:\n  mod_fail2ban: { c2s_max_auth_failures: 6 }')

describe('failed logins at several nodes', () => {
  let sites: Sites
  let laterMs: number
  const start = async (config: string): Promise<void> => {
    laterMs = 0
    sites = await Sites.start(['a', 'b', 'c'], config, undefined, () => Date.now() + laterMs)
    for (const name of ['romeo', 'juliet', 'mercutio']) await sites.register(name)
  }
  afterEach(() => sites[Symbol.asyncDispose]())

  /** Tries a password: what the server says to it, or `banned`. */
  async function tried({ site }: Site, user: string, password = 'wrong'): Promise<string> {
    const stream = await Connection.open({ host: site.host, port: site.tlsPort, domain: 'localhost', direct: true })
    try {
      stream.openStream()
      await stream.nextElement()
      stream.write(`<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>${Buffer.from(`\0${user}\0${password}`).toString('base64')}</auth>`)
      const answer = (await stream.nextElement()).element()
      return answer.getName() === 'success' ? 'success' : answer.getChildElements()[0]?.getName() ?? ''
    } catch (error) {
      if ((error as Error).message.startsWith('Too many (6) failed authentications from this IP address')) return 'banned'
      throw error
    } finally {
      stream.destroy()
    }
  }
  /** An account for each node, which stays its home. */
  const userOf = (index: number): string => ['romeo', 'juliet', 'mercutio'][index] as string
  const goesOn = async (index: number): Promise<boolean> => await tried(sites.at(index), userOf(index), 'secret') === 'success'
  /** Until the others have been told. */
  const settle = (): Promise<void> => new Promise((resolve) => { setTimeout(resolve, 300) })

  it('are counted together, and a ban holds at all, also at one that comes later, until it is over', async () => {
    await start(CONFIG)
    for (let each = 0; each < 6; each++) {
      const index = each % 3
      expect(await tried(sites.at(index), userOf(index))).to.equal('not-authorized')
      await settle()
    }
    for (const index of [0, 1, 2]) expect(await tried(sites.at(index), userOf(index), 'secret')).to.equal('banned')
    await using later = await Sites.joining(sites, 'd', CONFIG)
    await until(async () => await tried(later.at(3), 'romeo') === 'banned' || undefined)
    laterMs = 3_601_000
    for (const index of [0, 1, 2]) expect(await goesOn(index)).to.equal(true)
  })

  it('end to count at all when one login succeeds', async () => {
    await start(CONFIG)
    for (let each = 0; each < 12; each++) {
      await tried(sites.at(each % 3), userOf(each % 3))
      await settle()
      if (each % 4 === 3) {
        expect(await goesOn(each % 3)).to.equal(true)
        await settle()
      }
    }
    for (const index of [0, 1, 2]) expect(await goesOn(index)).to.equal(true)
  })

  it('come from one budget of their network', async () => {
    await start(TEST_CONFIG.replace('  mod_bosh: {}\n', '').replace('modules:', 'tidings: { limits: { address_login_failures: 6 } }\nmodules:'))
    const answers: string[] = []
    for (let each = 0; each < 9; each++) {
      answers.push(await tried(sites.at(each % 3), `nobody${each}`))
      await settle()
    }
    // One more comes each second.
    expect(answers.slice(0, 6)).to.deep.equal(Array.from({ length: 6 }, () => 'not-authorized'))
    expect(answers.slice(6)).to.include('temporary-auth-failure')
  })
})
