import { testHistoryStore } from '../../cluster/history-store.contract.ts'
import { MemoryHistory } from './history.ts'

const history = new MemoryHistory()
testHistoryStore('memory', () => Promise.resolve(history))
