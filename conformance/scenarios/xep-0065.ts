/** XEP-0065: the proxy for bytestreams. */
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import net, { type Socket } from 'node:net'
import { check, play } from '../play.ts'

const NS = 'http://jabber.org/protocol/bytestreams'
const ITEMS = 'http://jabber.org/protocol/disco#items'
const INFO = 'http://jabber.org/protocol/disco#info'
const WAIT_MS = 5000

/** Reads so many bytes, and leaves what follows. */
async function read(socket: Socket, bytes: number): Promise<Buffer> {
  const timer = setTimeout(() => socket.destroy(new Error('the proxy does not answer')), WAIT_MS)
  try {
    const chunks: Buffer[] = []
    for (let left = bytes; ;) {
      // More at once than the socket has room for is never there.
      const taken = socket.readableLength === 0 ? null : socket.read(Math.min(left, socket.readableLength)) as Buffer | null
      if (taken !== null) {
        chunks.push(taken)
        left -= taken.length
      }
      if (left === 0) return Buffer.concat(chunks)
      check(!socket.readableEnded && !socket.destroyed, `the connection ended before its ${bytes} bytes`)
      if (taken === null) await once(socket, 'readable')
    }
  } finally {
    clearTimeout(timer)
  }
}

async function join(host: string, port: number, name: string): Promise<Socket> {
  const socket = net.connect({ host, port })
  await once(socket, 'connect')
  socket.write(Buffer.from([5, 1, 0]))
  check((await read(socket, 2)).equals(Buffer.from([5, 0])), 'a greeting without authentication')
  const address = Buffer.concat([Buffer.from([3, name.length]), Buffer.from(name), Buffer.from([0, 0])])
  socket.write(Buffer.concat([Buffer.from([5, 1, 0]), address]))
  check((await read(socket, 3 + address.length)).equals(Buffer.concat([Buffer.from([5, 0, 0]), address])), 'success, with the address that was asked for (§6.3.2)')
  return socket
}

play('XEP-0065 §4 §6 two clients exchange bytes over the proxy', { romeo: {}, juliet: {} }, async ({ romeo, juliet }, stage) => {
  const items = await romeo.asks(`<iq type='get' id='d1' to='${stage.domain}'><query xmlns='${ITEMS}'/></iq>`, "<iq type='result'/>")
  let proxy: string | undefined
  for (const { attrs: { jid } } of items.getChild('query')?.getChildren('item') ?? []) {
    const info = await romeo.asks(`<iq type='get' id='i-${jid}' to='${jid}'><query xmlns='${INFO}'/></iq>`, '<iq/>')
    if (info.getChild('query')?.getChildren('identity').some(({ attrs }) => attrs['category'] === 'proxy' && attrs['type'] === 'bytestreams')) proxy = jid
  }
  check(proxy !== undefined, 'a proxy among the items of the domain')
  const answer = await romeo.asks(`<iq type='get' id='p1' to='${proxy}'><query xmlns='${NS}'/></iq>`, `<iq type='result'><query xmlns='${NS}'><streamhost jid='${proxy}'/></query></iq>`)
  const port = Number(answer.getChild('query')?.getChild('streamhost')?.attrs['port'])
  const activate = `<query xmlns='${NS}' sid='s1'><activate>${juliet.jid}</activate></query>`
  const name = createHash('sha1').update(`s1${romeo.jid}${juliet.jid}`).digest('hex')
  const sockets: Socket[] = []
  try {
    sockets.push(await join(stage.host, port, name))
    await romeo.asks(`<iq type='set' id='p2' to='${proxy}'>${activate}</iq>`, "<iq type='error'/>")
    sockets.push(await join(stage.host, port, name))
    await romeo.asks(`<iq type='set' id='p3' to='${proxy}'>${activate}</iq>`, "<iq type='result'/>")
    const [one, other] = sockets as [Socket, Socket]
    const bytes = Buffer.alloc(200_000, 'bytestream')
    one.end(bytes)
    check((await read(other, bytes.length)).equals(bytes), 'what one sends the other gets')
  } finally {
    for (const socket of sockets) socket.destroy()
  }
})

play('XEP-0065 §6.3.5 what nobody has joined is not activated', { romeo: {}, juliet: {} }, async ({ romeo, juliet }, stage) => {
  await romeo.asks(`<iq type='set' id='p1' to='proxy.${stage.domain}'><query xmlns='${NS}' sid='s1'><activate>${juliet.jid}</activate></query></iq>`, "<iq type='error'/>")
})
