import { expect } from 'chai'
import { fakeParts } from './fake-parts.ts'
import { version } from './version.ts'

describe('XEP-0092 software version', () => {
  const ask = async (options: Record<string, unknown>) => {
    const fake = fakeParts()
    fake.start(version, options)
    return (await fake.ask('romeo@example.org/x', 'get', "<query xmlns='jabber:iq:version'/>", 'example.net')).getChild('query')
  }

  it('§3: name, version and operating system', async () => {
    const query = await ask({})
    expect(query?.getChildText('name')).to.equal('Tidings')
    expect(query?.getChildText('version')).to.match(/^\d+\.\d+/)
    expect(query?.getChildText('os')).to.be.a('string')
  })

  it('keeps the operating system to itself when told so', async () => {
    expect((await ask({ show_os: false }))?.getChild('os')).to.equal(undefined)
  })
})
