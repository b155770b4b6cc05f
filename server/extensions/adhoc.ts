// XEP-0050: Ad-Hoc Commands, version 1.3.0 (2020-06-09)
import { bool } from '../config/options.ts'
import { defineExtension } from './extension.ts'

/** The commands themselves come from other extensions, by the part `commands`. */
export const adhoc = defineExtension({
  name: 'adhoc',
  ejabberd: 'mod_adhoc',
  specs: [{ xep: 50, version: '1.3.0', status: 'complete' }],
  needs: ['disco', 'commands'],
  options: {
    report_commands_node: { type: bool(), default: false, help: 'Whether the list of commands is among the items of the host.' },
  },
  start({ disco, commands }, options) {
    if (options.report_commands_node) disco.item('host', commands.listItem)
    commands.add({ node: 'ping', name: 'Ping', mayRun: () => true, run: () => ({ notes: [{ type: 'info', text: 'Pong' }] }) })
  },
})
