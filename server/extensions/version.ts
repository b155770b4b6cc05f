// XEP-0092: Software Version, version 1.1 (2007-02-15)
import { readFileSync } from 'node:fs'
import { findPackageJSON } from 'node:module'
import { release, type } from 'node:os'
import { xml } from '../../lib/xml/element.ts'
import { bool } from '../config/options.ts'
import { defineExtension } from './extension.ts'

const NS = 'jabber:iq:version'

export const version = defineExtension({
  name: 'version',
  ejabberd: 'mod_version',
  specs: [{ xep: 92, version: '1.1', status: 'complete' }],
  features: [NS],
  needs: ['iq'],
  options: { show_os: { type: bool(), default: true, help: 'Tell the operating system too.' } },
  start({ iq }, { show_os }) {
    const file = findPackageJSON('..', import.meta.url)
    const number = file === undefined ? 'unknown' : String((JSON.parse(readFileSync(file, 'utf8')) as { version?: string }).version ?? 'unknown')
    iq.get(`${NS} query`, 'host', () => xml('query', { xmlns: NS },
      xml('name', null, 'Tidings'), xml('version', null, number), show_os && xml('os', null, `${type()} ${release()}`)))
  },
})
