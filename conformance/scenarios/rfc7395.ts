/** RFC 7395: XMPP over WebSocket, at the address that XEP-0156 names. */
import { once } from 'node:events'
import type { IncomingMessage } from 'node:http'
import { request } from 'node:https'
import { type Client, connect, type ResumeState } from '../../lib/client/client.ts'
import { Connection } from '../../lib/client/connection.ts'
import { loginBySasl2 } from '../../lib/client/sasl2.ts'
import { StreamError } from '../../lib/stream/errors.ts'
import { parseElement } from '../../lib/xml/build.ts'
import { type Actor, check, play, type Stage } from '../play.ts'

const SM = 'urn:xmpp:sm:3'

function webOf({ web }: Stage): string {
  if (web === undefined) throw new Error('no HTTP listener is known: name it with --web')
  return web
}

async function hostMeta(stage: Stage, path: string): Promise<{ response: IncomingMessage; body: string }> {
  const { port, host } = new URL(webOf(stage))
  const [response] = (await once(request({ host: stage.host, port, path, headers: { Host: host }, servername: stage.domain, rejectUnauthorized: false, agent: false }).end(), 'response')) as [IncomingMessage]
  let body = ''
  for await (const chunk of response) body += String(chunk)
  return { response, body }
}

/** The address on the listener that is known: its name, and the port of a proxy, may be others. */
async function webSocketOf(stage: Stage): Promise<string> {
  const { body } = await hostMeta(stage, '/.well-known/host-meta')
  const link = parseElement(body.replace(/^<\?xml.*?\?>/, '').trim()).getChildren('Link').find(({ attrs }) => attrs['rel'] === 'urn:xmpp:alt-connections:websocket')
  const href = link?.attrs['href'] ?? ''
  check(href.startsWith('wss://'), `a link to WebSocket over TLS, not ${href}`)
  return `wss://${stage.host}:${new URL(webOf(stage)).port}${new URL(href).pathname}`
}

/** A second client of somebody's account, by WebSocket. */
async function enters(stage: Stage, actor: Actor, resume?: ResumeState): Promise<Client> {
  const client = await connect({ host: stage.host, port: 0, domain: stage.domain, webSocket: await webSocketOf(stage), user: actor.user, password: actor.password, sm: true, ...(resume === undefined ? {} : { resume }) })
  if (!client.resumed) {
    client.send('<presence/>')
    await client.ping()
  }
  return client
}

const message = (client: Client, body: string): Promise<unknown> => client.receive((element) => element.name === 'message' && element.getChildText('body') === body)

play('XEP-0156 §2 the address of WebSocket is in host-meta, in XML and JSON, for any page', {}, async (_cast, stage) => {
  await webSocketOf(stage)
  const { response, body } = await hostMeta(stage, '/.well-known/host-meta.json')
  check(response.headers['access-control-allow-origin'] === '*', 'pages of any origin may read it')
  const { links } = JSON.parse(body) as { links: { rel: string; href: string }[] }
  check(links.some(({ rel, href }) => rel === 'urn:xmpp:alt-connections:websocket' && href.startsWith('wss://')), 'a link in JSON')
})

play('RFC 7395 §3.7 a client logs in by SCRAM over WebSocket, and chats with one on TCP', { romeo: {}, juliet: { online: false } }, async ({ romeo, juliet }, stage) => {
  const page = await enters(stage, juliet)
  page.send(`<message to='${romeo.jid}' type='chat' id='w1'><body>Art thou not Romeo? 🌹</body></message>`)
  await romeo.receives(`<message from='${page.jid}' type='chat' id='w1'><body>Art thou not Romeo? 🌹</body></message>`)
  romeo.sends(`<message to='${page.jid}' type='chat' id='w2'><body>Neither, fair saint</body></message>`)
  await message(page, 'Neither, fair saint')
  await page.disconnect()
})

play('RFC 7395 a client logs in by SASL2 and Bind 2 over WebSocket', { juliet: { online: false } }, async ({ juliet }, stage) => {
  const { connection, success } = await loginBySasl2({ host: stage.host, port: 0, domain: stage.domain, webSocket: await webSocketOf(stage), user: juliet.user, password: juliet.password, inline: `<bind xmlns='urn:xmpp:bind:0'><enable xmlns='${SM}' resume='true'/></bind>` })
  check(success.getChild('bound', 'urn:xmpp:bind:0')?.getChild('enabled', SM) !== undefined, 'bound, and resumable')
  connection.destroy()
})

play('RFC 7395 §3.6 a WebSocket that is lost leaves a session to resume', { romeo: {}, juliet: { online: false } }, async ({ romeo, juliet }, stage) => {
  const page = await enters(stage, juliet)
  const resume = page.resumeState()
  page.connection.destroy()
  await page.closed
  for (let i = 0; i < 3; i++) romeo.sends(`<message to='${page.jid}' type='chat'><body>meanwhile ${i}</body></message>`)
  await romeo.client.ping()
  const again = await enters(stage, juliet, resume)
  check(again.resumed && again.jid === page.jid, 'resumed')
  for (let i = 0; i < 3; i++) await message(again, `meanwhile ${i}`)
  await again.disconnect()
})

play('RFC 7395 §3.3 a frame is one whole element', {}, async (_cast, stage) => {
  const webSocket = await webSocketOf(stage)
  for (const frame of ["<iq type='get' id='1'/><iq type='get' id='2'/>", "<iq type='get'", 'hello', `<open xmlns='jabber:client' to='${stage.domain}' version='1.0'/>`]) {
    const connection = await Connection.open({ host: stage.host, port: 0, domain: stage.domain, webSocket })
    connection.openStream()
    check((await connection.nextElement()).name === 'features', 'features')
    connection.write(frame)
    const error = await connection.nextElement().then((answer) => String(answer), (reason: unknown) => reason)
    check(error instanceof StreamError, `a stream error for ${frame}, not ${String(error)}`)
    connection.destroy()
  }
})
