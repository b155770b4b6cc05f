/** A node as a process of its own: appends numbered records to its log and tells each that is acknowledged, until it is lost or killed. */
import { HEADER_BYTES } from '../../storage/groups/log.ts'
import { type RedisConnection } from './connect.ts'
import { RedisMembership } from './membership.ts'

const { redis, leaseMs } = JSON.parse(process.argv[2] ?? '') as { redis: RedisConnection; leaseMs: number }
// Without its parent it is of no use.
process.stdin.on('end', () => process.exit()).resume()
const member = await RedisMembership.join({ redis, name: 'child', address: '', roles: [], leaseMs })
let isLost = false
member.onLost(() => {
  isLost = true
  process.stdout.write('lost\n')
})
process.stdout.write(`inc ${member.self.inc}\n`)
await member.claim('juliet@example.org')
for (let number = 1; !isLost; number++) {
  const buffer = Buffer.alloc(HEADER_BYTES + 32)
  const payload = `record ${number}`
  buffer.write(payload, HEADER_BYTES)
  try {
    await member.log.append(buffer, payload.length, number)
    process.stdout.write(`acked ${number}\n`)
  } catch {
    // The same one again.
    number--
    await new Promise((resolve) => { setTimeout(resolve, 20) })
  }
}
await member[Symbol.asyncDispose]()
process.exit()
