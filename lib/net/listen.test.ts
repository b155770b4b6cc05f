import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { access, mkdtemp, rm, stat, writeFile } from 'node:fs/promises'
import { connect, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { expect } from 'chai'
import { listenOn } from './listen.ts'

describe('listening', () => {
  let dir: string
  let file: string
  beforeEach(async () => {
    dir = await mkdtemp(path.join(tmpdir(), 'listen-'))
    file = path.join(dir, 'x.sock')
  })
  afterEach(() => rm(dir, { recursive: true }))
  const at = (unixPath: string, unixSocket = {}): Parameters<typeof listenOn>[1] => ({ port: 0, ip: '127.0.0.1', unixPath, unixSocket })
  const failure = (work: Promise<unknown>): Promise<string> => work.then(() => 'none', (error: Error) => error.message)

  it('tells the port it got', async () => {
    const server = createServer()
    try {
      expect(await listenOn(server, { port: 0, ip: '127.0.0.1' })).to.be.greaterThan(0)
    } finally {
      server.close()
    }
  })

  it('makes a Unix socket with the rights it is told, and removes it at the end', async () => {
    for (const mode of [0o600, 0o666, 0o770]) {
      const server = createServer((socket) => { socket.end('here') })
      expect(await listenOn(server, at(file, { mode, owner: process.getuid?.(), group: process.getgid?.() }))).to.equal(0)
      expect((await stat(file)).mode & 0o777).to.equal(mode)
      const client = connect(file)
      expect(String(await once(client, 'data'))).to.equal('here')
      server.close()
      await once(server, 'close')
      expect(await access(file).then(() => 'there', () => 'gone')).to.equal('gone')
    }
  })

  it('replaces the socket of a server that was killed', async () => {
    const killed = spawn(process.execPath, ['-e', `require('net').createServer().listen(${JSON.stringify(file)}, () => console.log('ready'))`])
    await once(killed.stdout, 'data')
    killed.kill('SIGKILL')
    await once(killed, 'exit')
    await access(file)
    const server = createServer()
    await listenOn(server, at(file))
    server.close()
  })

  it('leaves the socket of another server and other files alone', async () => {
    const first = createServer()
    await listenOn(first, at(file))
    try {
      expect(await failure(listenOn(createServer(), at(file)))).to.contain('already')
      await once(connect(file), 'connect')
    } finally {
      first.close()
    }
    const plain = path.join(dir, 'file')
    await writeFile(plain, 'kept')
    expect(await failure(listenOn(createServer(), at(plain)))).to.contain('not a socket')
    await access(plain)
  })

  it('gives a Unix socket to another user, or does not listen at all', async () => {
    const server = createServer()
    if (process.getuid?.() === 0) {
      await listenOn(server, at(file, { owner: 1, group: 2 }))
      expect([(await stat(file)).uid, (await stat(file)).gid]).to.deep.equal([1, 2])
      server.close()
    } else {
      expect(await failure(listenOn(server, at(file, { owner: 0 })))).to.contain('EPERM')
      expect(server.listening).to.equal(false)
    }
  })

  it('says what is wrong with a port that is taken', async () => {
    const first = createServer()
    const port = await listenOn(first, { port: 0, ip: '127.0.0.1' })
    expect(await failure(listenOn(createServer(), { port, ip: '127.0.0.1' }))).to.contain('EADDRINUSE')
    first.close()
  })
})
