import { testStorage } from '../contract.ts'
import { openMemory } from './memory.ts'

testStorage('memory', async () => ({ storage: openMemory() }))
