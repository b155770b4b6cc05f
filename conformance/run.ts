/**
 * Gives all plays: `node conformance/run.ts [--host HOST --port PORT --domain DOMAIN [--tls none] [--tls-port PORT]] [--only TEXT]`.
 * Without an address it starts a server of its own. A server at an address must let accounts be made in band (XEP-0077).
 */
import { parseArgs } from 'node:util'
import { loadPlays, ownStage } from './stages.ts'

const { values } = parseArgs({
  options: {
    host: { type: 'string' },
    port: { type: 'string', default: '5222' },
    domain: { type: 'string', default: 'localhost' },
    tls: { type: 'string', default: 'starttls' },
    'tls-port': { type: 'string' },
    only: { type: 'string' },
    quiet: { type: 'boolean', default: false },
  },
})

const plays = await loadPlays()
const { stage, close } = values.host === undefined
  ? await ownStage()
  : {
      stage: {
        host: values.host, port: Number(values.port), domain: values.domain,
        tls: values.tls === 'none' ? 'none' as const : 'starttls' as const,
        tlsPort: values['tls-port'] === undefined ? undefined : Number(values['tls-port']),
      },
      close: () => Promise.resolve(),
    }

let passed = 0
let failed = 0
for (const each of plays) {
  if (values.only !== undefined && !each.title.includes(values.only)) continue
  try {
    await each.run(stage)
    passed++
    if (!values.quiet) console.log(`ok    ${each.title}`)
  } catch (error) {
    failed++
    console.log(`FAIL  ${each.title}\n  ${error instanceof Error ? error.message : String(error)}`)
  }
}
await close()
console.log(`conformance: ${passed} passed, ${failed} failed`)
process.exit(failed === 0 ? 0 : 1)
