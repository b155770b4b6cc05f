import { expect } from 'chai'
import { startRedis, startRedisCluster } from '../../../services/services.ts'
import { connectionOf } from './service.fixture.ts'
import { RedisProgress } from './progress.ts'

for (const [name, start] of [['one Redis', startRedis], ['a Redis Cluster', startRedisCluster]] as const) {
  describe(`progress of history in ${name}`, () => {
    it('is told by workers in any order, read by nodes, and never goes back', async () => {
      await using service = await start()
      const redis = connectionOf(service)
      await using worker = new RedisProgress(redis, 'archive')
      await using other = new RedisProgress(redis, 'archive')
      await using node = new RedisProgress(redis, 'archive')
      await using elsewhere = new RedisProgress(redis, 'another')
      expect([...await node.read()]).to.deep.equal([])
      await Promise.all([worker.publish(new Map([[0, 10], [1, 0]])), other.publish(new Map([[10, 9_007_199_254_740_991]]))])
      await other.publish(new Map([[0, 9], [1, 1]]))
      await worker.publish(new Map())
      expect(await node.read()).to.deep.equal(new Map([[0, 10], [1, 1], [10, 9_007_199_254_740_991]]))
      expect([...await elsewhere.read()]).to.deep.equal([])
      await service.kill()
      const waiting = worker.publish(new Map([[0, 20]]))
      await service.restart()
      await waiting
      expect((await node.read()).get(0)).to.equal(20)
    })
  })
}
