/** How far the workers of history have come, in a hash of Redis: `archive:done:TOPIC`, partition -> offset below which the store has everything. */
import type { HistoryProgress } from '../shapes.ts'
import { Commander, type RedisConnection } from './connect.ts'
import { ADVANCE, PROGRESS } from './scripts.ts'

export class RedisProgress implements HistoryProgress {
  readonly #commander: Commander
  readonly #key: string

  constructor(redis: RedisConnection, topic: string, onProblem: (problem: string | undefined) => void = () => undefined) {
    this.#commander = new Commander(redis, onProblem)
    this.#key = `${redis.keyPrefix}archive:done:${topic}`
  }

  async publish(done: ReadonlyMap<number, number>): Promise<void> {
    if (done.size === 0) return
    await this.#commander.persist(() => this.#commander.run(ADVANCE, [this.#key], [...done].flat()))
  }

  async read(): Promise<ReadonlyMap<number, number>> {
    const answer = await this.#commander.persist(() => this.#commander.run(PROGRESS, [this.#key], [])) as readonly Buffer[]
    const done = new Map<number, number>()
    for (let i = 0; i + 1 < answer.length; i += 2) done.set(Number(answer[i]), Number(answer[i + 1]))
    return done
  }

  [Symbol.asyncDispose](): Promise<void> {
    this.#commander.close()
    return Promise.resolve()
  }
}
