import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { connect as connectTls, TLSSocket } from 'node:tls'
import { expect } from 'chai'
import { generate } from 'selfsigned'
import { shareReads } from './shared-reads.ts'

describe('shared reads', () => {
  let server: Server
  let accepted: Socket
  let heard: Buffer
  let memory: Set<ArrayBufferLike>

  function listen(wrap: (socket: Socket) => Socket): void {
    server = createServer({ pauseOnConnect: true }, (socket) => {
      accepted = wrap(socket)
      shareReads(accepted)
      accepted.on('data', (chunk: Buffer) => {
        memory.add(chunk.buffer)
        heard = Buffer.concat([heard, chunk])
      })
      accepted.on('end', () => accepted.end())
      accepted.on('error', () => undefined)
      accepted.resume()
    })
  }

  async function says(client: Socket, ...texts: string[]): Promise<void> {
    for (const text of texts) {
      const before = heard.length
      client.write(text)
      while (heard.length < before + Buffer.byteLength(text)) await new Promise((resolve) => { setImmediate(resolve) })
    }
  }

  beforeEach(() => {
    heard = Buffer.alloc(0)
    memory = new Set()
  })
  afterEach(() => { server.close() })

  it('deliver what comes, in one buffer, and the end', async () => {
    listen((socket) => socket)
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    const client = connect((server.address() as AddressInfo).port, '127.0.0.1')
    const large = 'y'.repeat(300_000)
    await says(client, 'one', 'two', large)
    expect(heard.toString()).to.equal(`onetwo${large}`)
    expect(memory.size).to.equal(1)
    client.end()
    await once(client, 'close')
    expect(accepted.destroyed).to.equal(true)
  })

  it('stop while the socket is paused', async () => {
    listen((socket) => socket)
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    const client = connect((server.address() as AddressInfo).port, '127.0.0.1')
    await says(client, 'before')
    accepted.pause()
    client.write(' after')
    await new Promise((resolve) => { setTimeout(resolve, 20) })
    expect(heard.toString()).to.equal('before')
    accepted.resume()
    await says(client, '!')
    expect(heard.toString()).to.equal('before after!')
    client.destroy()
  })

  it('work on a Unix socket', async () => {
    const dir = await mkdtemp(path.join(tmpdir(), 'reads-'))
    try {
      listen((socket) => socket)
      server.listen(path.join(dir, 'socket'))
      await once(server, 'listening')
      const client = connect(path.join(dir, 'socket'))
      await says(client, 'one', 'two')
      expect([heard.toString(), memory.size]).to.deep.equal(['onetwo', 1])
      client.destroy()
    } finally {
      await rm(dir, { recursive: true })
    }
  })

  it('work under TLS, where what was read is read no more', async () => {
    const pem = await generate([{ name: 'commonName', value: 'a.example' }], { keyType: 'ec', algorithm: 'sha256' })
    listen((socket) => new TLSSocket(socket, { isServer: true, key: pem.private, cert: pem.cert }))
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    const client = connectTls({ port: (server.address() as AddressInfo).port, host: '127.0.0.1', rejectUnauthorized: false })
    const large = 'z'.repeat(300_000)
    await says(client, 'one', 'two', large)
    expect(heard.toString()).to.equal(`onetwo${large}`)
    expect(memory.size).to.equal(1)
    client.destroy()
  })
})
