/** XEP-0198: stream management. */
import { check, play } from '../play.ts'

const SM = 'urn:xmpp:sm:3'

play('XEP-0198 §4 the server acknowledges what it handled', { romeo: { sm: true } }, async ({ romeo }) => {
  const before = await romeo.client.requestAck()
  romeo.sends(`<message to='${romeo.jid}' type='chat'><body>1</body></message>`)
  romeo.sends(`<message to='${romeo.jid}' type='chat'><body>2</body></message>`)
  check((await romeo.client.requestAck()) === before + 2, 'two more')
  check(romeo.client.unacked.length === 0, 'nothing unacknowledged')
})

play('XEP-0198 §4 the server asks for acknowledgement', { romeo: { sm: true }, juliet: {} }, async ({ romeo, juliet }) => {
  let asked = 0
  romeo.client.on((stanza) => { if (stanza.name === 'r' && stanza.xmlns === SM) asked++ })
  for (let i = 0; i < 30; i++) juliet.sends(`<message to='${romeo.jid}' type='chat' id='m${i}'><body>Hi</body></message>`)
  await romeo.receives("<message id='m29'/>")
  for (let i = 0; i < 20 && asked === 0; i++) await new Promise((resolve) => setTimeout(resolve, 100))
  check(asked > 0, 'asked')
})

play('XEP-0198 §3 enabling before binding is refused', { romeo: { available: false } }, async ({ romeo }, stage) => {
  const { login } = await import('../../lib/client/client.ts')
  const { connection } = await login({ ...stage, tls: stage.tls, user: romeo.user, password: romeo.password })
  connection.write(`<enable xmlns='${SM}'/>`)
  const answer = await connection.nextElement()
  check(answer.name === 'failed' && answer.xmlns === SM, `failed, not ${String(answer)}`)
  connection.destroy()
})

play('XEP-0198 §5 a lost stream is resumed without losing or doubling a stanza', { romeo: { sm: true, resource: 'orchard' }, juliet: {} }, async ({ romeo, juliet }) => {
  romeo.client.acknowledges = false
  for (let i = 0; i < 5; i++) juliet.sends(`<message to='${romeo.jid}' type='chat' id='a${i}'><body>before</body></message>`)
  await romeo.receives("<message id='a4'/>")
  romeo.sends(`<message to='${juliet.jid}' type='chat' id='b0'><body>sent</body></message>`)
  await juliet.receives("<message id='b0'/>")
  const resume = romeo.client.resumeState()
  const { jid } = romeo
  await romeo.vanishes()
  for (let i = 0; i < 5; i++) juliet.sends(`<message to='${jid}' type='chat' id='c${i}'><body>meanwhile</body></message>`)
  await juliet.client.ping()
  await romeo.enters({ resume })
  check(romeo.client.resumed, 'resumed')
  check(romeo.jid === jid, 'the same address')
  for (let i = 0; i < 5; i++) await romeo.receives(`<message id='c${i}' from='${juliet.jid}'/>`)
  await romeo.receivesNothing("<message id='{any}'><body>before</body></message>")
  await juliet.receivesNothing("<message id='b0'/>")
  await juliet.receivesNothing(`<presence from='${jid}' type='unavailable'/>`)
})

play('XEP-0198 §5 what was sent and not received is sent again', { romeo: { sm: true }, juliet: {} }, async ({ romeo, juliet }) => {
  const { jid } = romeo
  await romeo.client.ping()
  const resume = romeo.client.resumeState()
  romeo.client.connection.stopReading()
  for (let i = 0; i < 3; i++) juliet.sends(`<message to='${jid}' type='chat' id='d${i}'><body>lost</body></message>`)
  await juliet.client.ping()
  await romeo.vanishes()
  await romeo.enters({ resume })
  check(romeo.client.resumed, 'resumed')
  for (let i = 0; i < 3; i++) await romeo.receives(`<message id='d${i}'/>`)
})

play('XEP-0198 §5 a stream that nobody has is not resumed', { romeo: { sm: true } }, async ({ romeo }) => {
  const resume = { ...romeo.client.resumeState(), id: 'no-such-stream' }
  await romeo.leaves()
  await romeo.enters({ resume, sm: true })
  check(!romeo.client.resumed, 'bound anew')
})

play('XEP-0198 §5 nobody else can resume a stream', { romeo: { sm: true }, juliet: {} }, async ({ romeo, juliet }) => {
  const resume = romeo.client.resumeState()
  await juliet.enters({ resume, sm: true })
  check(!juliet.client.resumed, 'not resumed')
  await romeo.client.ping()
})

play('XEP-0198 §4 acknowledging more than was sent ends the stream', { romeo: { sm: true } }, async ({ romeo }) => {
  romeo.client.connection.write(`<a xmlns='${SM}' h='100000'/>`)
  await romeo.client.closed
  check(romeo.client.streamError?.condition === 'undefined-condition', `undefined-condition, not ${romeo.client.streamError?.condition}`)
})
