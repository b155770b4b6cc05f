/** A server as a process of its own that a test kills: the configuration, the data directory, and a name server. */
import { loadConfig } from '../config/config.ts'
import { createLog } from '../log.ts'
import { createServer } from '../server.ts'

const [file = '', dataDir = '', nameServer = '', ...accounts] = process.argv.slice(2)
const server = await createServer({ config: loadConfig(file).config, dataDir, nameServers: [nameServer], log: createLog(process.env['TIDINGS_TEST_LOG'] ?? 'silent') })
for (const account of accounts) if (await server.accounts.exists(account) !== true) await server.register(account, 'secret')
process.stdout.write('ready\n')
process.on('SIGTERM', () => { void server.close().then(() => process.exit(0)) })
