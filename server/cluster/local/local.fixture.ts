/** For tests: the main process's part, on a directory of its own, with as many members as are asked for. */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { type Embedded, openEmbedded } from '../../storage/embedded/embedded.ts'
import { Hub, type HubOptions } from './hub.ts'
import { LocalMembership } from './membership.ts'

export interface TestHub extends AsyncDisposable {
  readonly hub: Hub
  readonly storage: Embedded
  readonly dir: string
  join(name: string): Promise<LocalMembership>
  /** The main process ends as when it is killed, all others with it, and another one starts. */
  restart(): Promise<void>
}

export async function openHub(options: Partial<HubOptions> = {}): Promise<TestHub> {
  const dir = await mkdtemp(path.join(tmpdir(), 'tidings-'))
  const socket = path.join(dir, 'processes')
  const members: LocalMembership[] = []
  let storage = await openEmbedded(path.join(dir, 'data'))
  let hub = await Hub.open({ storage, path: socket, ...options })
  const close = async (): Promise<void> => {
    for (const member of members.splice(0)) member.abort()
    await hub.close()
    await storage[Symbol.asyncDispose]()
  }
  return {
    dir,
    get hub() { return hub },
    get storage() { return storage },
    async join(name) {
      const member = await LocalMembership.join({ path: socket, name, address: '', roles: [] })
      members.push(member)
      return member
    },
    async restart() {
      await close()
      storage = await openEmbedded(path.join(dir, 'data'))
      hub = await Hub.open({ storage, path: socket, ...options })
    },
    async [Symbol.asyncDispose]() {
      await close()
      await rm(dir, { recursive: true, force: true })
    },
  }
}
