import { type Redis as RedisService, type RedisSentinel } from '../../../services/services.ts'
import { REDIS_DEFAULTS, type RedisConnection } from './connect.ts'

/** How a node of a test connects. */
export function connectionOf(service: RedisService): RedisConnection {
  const at = (port: number): { host: string; port: number } => ({ host: '127.0.0.1', port })
  if ('sentinels' in service) {
    const { sentinels, master } = service as RedisSentinel
    return { ...REDIS_DEFAULTS, server: undefined, sentinels, name: master, minReplicas: 1 }
  }
  if (service.ports.length > 1) return { ...REDIS_DEFAULTS, server: undefined, cluster: service.ports.map(at) }
  return { ...REDIS_DEFAULTS, server: at(service.ports[0] ?? 0) }
}
