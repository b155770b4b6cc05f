/** What the wire parser costs a stanza: `node bench/parser.ts`. */
import { StreamParser } from '../lib/xml/parser.ts'

const LIMITS = { stanzaBytes: 262_144, depth: 64, attributes: 64, children: 256 }
const HEADER = "<?xml version='1.0'?><stream:stream to='example.org' version='1.0' xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>"
const ASCII =
  "<message to='juliet@capulet.example/balcony' id='8b5c1c0e-6b0e-4b8e' type='chat' xml:lang='en'><body>Wherefore art thou, Romeo? Deny thy father &amp; refuse thy name; or, if thou wilt not</body><request xmlns='urn:xmpp:receipts'/><active xmlns='http://jabber.org/protocol/chatstates'/><origin-id xmlns='urn:xmpp:sid:0' id='8b5c1c0e-6b0e'/></message>"
const CYRILLIC = ASCII.replace(/Wherefore.*not/, 'О Ромео! Зачем же ты Ромео? Покинь отца и отрекись навеки от имени')

function measure(name: string, stanza: string, chunkBytes: number): void {
  const rounds = 200
  const one = Buffer.from(stanza.repeat(1000))
  let count = 0
  const parser = new StreamParser(LIMITS, { streamOpened: () => undefined, stanza: () => void count++, streamClosed: () => undefined })
  parser.write(Buffer.from(HEADER))
  const run = (): void => {
    for (let at = 0; at < one.length; at += chunkBytes) parser.write(one.subarray(at, at + chunkBytes))
  }
  for (let i = 0; i < 20; i++) run()
  count = 0
  const start = process.cpuUsage()
  for (let i = 0; i < rounds; i++) run()
  const used = process.cpuUsage(start)
  console.log(`${name}: ${((used.user + used.system) / count).toFixed(2)} us a stanza of ${Buffer.byteLength(stanza)} bytes`)
}

measure('ascii, chunks of 64 KiB', ASCII, 65_536)
measure('ascii, chunks of a stanza', ASCII, Buffer.byteLength(ASCII))
measure('ascii, chunks of 100 bytes', ASCII, 100)
measure('ascii, chunks of 1 byte', ASCII, 1)
measure('cyrillic, chunks of 64 KiB', CYRILLIC, 65_536)
