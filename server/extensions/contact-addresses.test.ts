import { expect } from 'chai'
import { parseOptions, type OptionTable } from '../config/options.ts'
import { contactAddresses } from './contact-addresses.ts'
import { fakeParts } from './fake-parts.ts'

describe('XEP-0157 contact addresses', () => {
  it('§3: shows the configured addresses in a form of the host', () => {
    const raw = { server_info: [
      { modules: 'all', name: 'abuse-addresses', urls: ['mailto:abuse@example.net', 'xmpp:abuse@example.net'] },
      { modules: ['mod_muc'], name: 'admin-addresses', urls: ['mailto:rooms@example.net'] },
    ], extra_domains: ['echo.example.net'], name: 'Verona' }
    const { options, problems } = parseOptions(contactAddresses.options as OptionTable<object>, raw, { option: 'modules.mod_disco' })
    expect(problems).to.deep.equal([])
    const fake = fakeParts()
    fake.disco.identity('host', { category: 'server', type: 'im', name: 'Tidings' })
    fake.start(contactAddresses, options as Record<string, unknown>)
    const info = fake.disco.ownInfo('host')
    const fields = info.getChild('x', 'jabber:x:data')?.getChildren('field') ?? []
    expect(fields.map((field) => field.attrs['var'])).to.deep.equal(['FORM_TYPE', 'abuse-addresses'])
    expect(fields[1]?.getChildren('value').map((value) => value.getText())).to.deep.equal(['mailto:abuse@example.net', 'xmpp:abuse@example.net'])
    expect(info.getChildren('identity').map((identity) => identity.attrs['name'])).to.deep.equal(['Verona'])
  })

  it('has no form when nothing is configured', () => {
    const fake = fakeParts()
    fake.start(contactAddresses)
    expect(fake.disco.ownInfo('host').getChild('x')).to.equal(undefined)
  })
})
