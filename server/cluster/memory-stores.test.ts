import { testHistoryStore } from './history-store.contract.ts'
import { MemoryHistoryStore, MemoryRowStore } from './memory-stores.ts'
import { testRowStore } from './row-store.contract.ts'

const rows = new MemoryRowStore()
testRowStore('memory', () => Promise.resolve(rows))

const history = new MemoryHistoryStore()
testHistoryStore('memory of a cluster', () => Promise.resolve(history))
