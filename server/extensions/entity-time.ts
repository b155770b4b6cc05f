// XEP-0202: Entity Time, version 2.0 (2009-09-11)
import { xml } from '../../lib/xml/element.ts'
import { defineExtension } from './extension.ts'

const NS = 'urn:xmpp:time'

export const entityTime = defineExtension({
  name: 'entity-time',
  ejabberd: 'mod_time',
  specs: [{ xep: 202, version: '2.0', status: 'complete' }],
  features: [NS],
  needs: ['iq', 'now'],
  start({ iq, now }) {
    iq.get(`${NS} time`, 'host', () => {
      const date = new Date(now())
      return xml('time', { xmlns: NS }, xml('tzo', null, formatOffset(-date.getTimezoneOffset())), xml('utc', null, date.toISOString()))
    })
  },
})

/** XEP-0082 §3.2: the offset from UTC as `+hh:mm`. */
export function formatOffset(minutes: number): string {
  const size = Math.abs(minutes)
  return `${minutes < 0 ? '-' : '+'}${String(Math.floor(size / 60)).padStart(2, '0')}:${String(size % 60).padStart(2, '0')}`
}
