/**
 * Which process is taking an upload, for a bucket that does not decide itself between two at once: a key in the Redis of the cluster, which ends soon
 * after its process does.
 */
import { randomBytes } from 'node:crypto'
import { type Client, openClient, type RedisConnection } from '../cluster/redis/connect.ts'
import { connected } from '../cluster/redis/inbox.ts'

export interface UploadClaims {
  /** Whether this process has the upload now, and no other has it. Rejects when that cannot be found out. */
  take(key: string): Promise<boolean>
  /** The upload is over, or broke off. */
  drop(key: string): Promise<void>
  close(): void
}

const CLAIM_MS = 30_000
/** KEYS: the claim; ARGV: who, for how long (ms; 0: no more). Answers 1 when it was his. */
const KEEP = "if redis.call('get', KEYS[1]) ~= ARGV[1] then return 0 end if ARGV[2] == '0' then return redis.call('del', KEYS[1]) end return redis.call('pexpire', KEYS[1], ARGV[2])"

export function openUploadClaims(redis: RedisConnection): UploadClaims {
  const client: Client = openClient(redis)
  const self = randomBytes(12).toString('hex')
  const held = new Set<string>()
  const nameOf = (key: string): string => `${redis.keyPrefix}upload:${key}`
  const keeping = setInterval(() => {
    for (const key of held) client.eval(KEEP, 1, nameOf(key), self, CLAIM_MS).catch(() => undefined)
  }, CLAIM_MS / 3).unref()
  return {
    async take(key) {
      if (held.has(key)) return false
      held.add(key)
      try {
        // A process that has just started.
        await connected(client)
        if (await client.set(nameOf(key), self, 'PX', CLAIM_MS, 'NX') === 'OK') return true
      } catch (error) {
        held.delete(key)
        throw error
      }
      held.delete(key)
      return false
    },
    async drop(key) {
      if (held.delete(key)) await client.eval(KEEP, 1, nameOf(key), self, 0)
    },
    close() {
      clearInterval(keeping)
      client.disconnect()
    },
  }
}
