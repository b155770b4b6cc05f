/** What the modules of ejabberd's for federation turn on; server/s2s does it. */
import { accessRule, type OptionTable } from '../config/options.ts'
import { defineExtension } from './extension.ts'

export const dialbackOptions: OptionTable<{ access: string }> = {
  access: { type: accessRule(), default: 'all', help: 'Access rule: servers that are believed without a certificate.' },
}

// XEP-0220: Server Dialback, version 1.1.1 (2015-03-12); XEP-0185: Dialback Key Generation and Validation, version 1.0 (2007-02-15)
export const serverDialback = defineExtension({
  name: 'server-dialback',
  ejabberd: 'mod_s2s_dialback',
  specs: [
    { xep: 220, version: '1.1.1', status: 'partial', note: 'without target piggybacking' },
    { xep: 185, version: '1.0', status: 'complete' },
  ],
  needs: [],
  options: dialbackOptions,
  start() {},
})

// XEP-0288: Bidirectional Server-to-Server Connections, version 1.0.1 (2016-10-17)
export const bidirectionalStreams = defineExtension({
  name: 'bidirectional-streams',
  ejabberd: 'mod_s2s_bidi',
  specs: [{ xep: 288, version: '1.0.1', status: 'partial', note: 'one domain of each side in the direction back asks for no others' }],
  needs: [],
  start() {},
})
