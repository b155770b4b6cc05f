/** The way of history to its store without a queue in between: for those who run no Kafka. */
import { type HistoryChange, type HistoryEntry, type HistoryQueue, type HistoryStore } from './shapes.ts'

const BYTES_MAX = 64 * 1024 * 1024
const RETRY_MS = 200

export class DirectQueue implements HistoryQueue {
  readonly #store: HistoryStore
  readonly #bytesMax: number
  #last: Promise<void> = Promise.resolve()
  #room: Promise<void> | undefined
  #hasRoom: (() => void) | undefined
  #bytes = 0
  #problem: string | undefined
  #isClosed = false

  constructor(store: HistoryStore, bytesMax = BYTES_MAX) {
    this.#store = store
    this.#bytesMax = bytesMax
  }

  get bytes(): number { return this.#bytes }
  get problem(): string | undefined { return this.#problem }

  async push(entries: readonly HistoryEntry[]): Promise<readonly undefined[]> {
    let bytes = 0
    for (const entry of entries) bytes += 100 + ('purge' in entry ? 0 : entry.bytes?.length ?? 0)
    this.#bytes += bytes
    const written = this.#last.then(() => this.#write(entries))
    this.#last = written.catch(() => {})
    await written
    this.#bytes -= bytes
    if (this.#bytes <= this.#bytesMax) {
      this.#hasRoom?.()
      this.#room = undefined
    }
    return entries.map(() => undefined)
  }

  room(): Promise<void> | undefined {
    if (this.#bytes <= this.#bytesMax) return undefined
    this.#room ??= new Promise((resolve) => { this.#hasRoom = resolve })
    return this.#room
  }

  /** What waits is not written any more. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#isClosed = true
    await this.#last
  }

  async #write(entries: readonly HistoryEntry[]): Promise<void> {
    for (;;) {
      if (this.#isClosed) throw new Error('the way to the store of history is closed')
      try {
        await this.#writeOnce(entries)
        this.#problem = undefined
        return
      } catch (error) {
        this.#problem = `writing to the store of history failed: ${(error as Error).message}`
        await new Promise((resolve) => { setTimeout(resolve, RETRY_MS) })
      }
    }
  }

  /** What was written before may be written again. */
  async #writeOnce(entries: readonly HistoryEntry[]): Promise<void> {
    let changes: HistoryChange[] = []
    for (const entry of entries) {
      if (!('purge' in entry)) {
        changes.push(entry)
        continue
      }
      if (changes.length > 0) await this.#store.write(changes)
      changes = []
      await this.#store.purge(entry.owner, entry.before, entry.version)
    }
    if (changes.length > 0) await this.#store.write(changes)
  }
}
