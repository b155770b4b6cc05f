import { once } from 'node:events'
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { expect } from 'chai'
import { awaitFirstBytes } from './first-bytes.ts'

describe('the first bytes of a connection', () => {
  let server: Server
  let client: Socket
  let accepted: Socket
  let events: string[]

  async function begin(timeoutMs: number): Promise<void> {
    events = []
    server = createServer({ pauseOnConnect: true }, (socket) => {
      accepted = socket.on('error', () => undefined)
      awaitFirstBytes(socket, timeoutMs, () => { events.push('done') }, () => { events.push('failed') })
    })
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    client = connect((server.address() as AddressInfo).port, '127.0.0.1').on('error', () => undefined)
    await once(client, 'connect')
  }
  afterEach(() => {
    client.destroy()
    accepted.destroy()
    server.close()
  })

  async function until(event: string): Promise<void> {
    while (!events.includes(event)) await sleep(5)
  }

  it('stay in the socket, before those that follow', async () => {
    await begin(10_000)
    client.write('one')
    await until('done')
    client.write('two')
    await sleep(20)
    let text = ''
    accepted.on('data', (chunk: Buffer) => { text += chunk.toString() }).resume()
    while (text.length < 6) await sleep(5)
    expect(text).to.equal('onetwo')
    client.end()
    await once(accepted, 'end')
    expect(events).to.deep.equal(['done'])
  })

  it('are waited for so long and no longer', async () => {
    await begin(20)
    await until('failed')
    client.write('late')
    await sleep(20)
    expect(events).to.deep.equal(['failed'])
  })

  it('do not come when the connection ends', async () => {
    await begin(10_000)
    client.end()
    await until('failed')
    expect(events).to.deep.equal(['failed'])
  })
})
