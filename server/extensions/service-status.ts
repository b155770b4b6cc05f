// XEP-0455: Service Outage Status, version 0.4.0 (2025-08-15)
import { buildForm } from '../../lib/forms.ts'
import type { Outage } from '../config/config.ts'
import { corsHeaders } from '../http/http.ts'
import { defineExtension } from './extension.ts'

const NS = 'urn:xmpp:sos:0'
/** Where the route is; `request_handlers` of a listener name it `tidings_status`. */
const ROUTE = '/status'

export const serviceStatus = defineExtension({
  name: 'service-status',
  specs: [{ xep: 455, version: '0.4.0', status: 'complete' }],
  needs: ['host', 'config', 'disco', 'http'],
  start({ host, config, disco, http }) {
    const { addresses, outage } = config.tidings.serviceStatus
    const elsewhere = addresses.map((address) => address.replaceAll('@HOST@', host))

    // §2.1
    disco.form('host', () => {
      const own = http.baseUrl(host, ROUTE)
      const values = elsewhere.length > 0 || own === undefined ? elsewhere : [own]
      return values.length === 0 ? undefined : buildForm('result', { formType: NS, fields: [{ var: 'external-status-addresses', type: 'list-multi', value: values }] })
    })

    const body = Buffer.from(`${JSON.stringify(statusOf(outage))}\n`)
    const remove = http.add('GET', ROUTE, (request, response) => {
      response.writeHead(200, { ...corsHeaders(['GET', 'HEAD']), 'Content-Type': 'application/json', 'Content-Length': body.length, 'Cache-Control': 'no-cache' })
      response.end(request.method === 'HEAD' ? undefined : body)
    })
    return remove
  },
})

/** §2.2: nothing at all when all is well. */
function statusOf(outage: Outage | undefined): object {
  if (outage === undefined) return {}
  const { planned, beginning, expected_end: expectedEnd, message } = outage
  return {
    planned, beginning,
    ...expectedEnd === '' ? {} : { expected_end: expectedEnd },
    ...message.size === 0 ? {} : { message: Object.fromEntries(message) },
  }
}
