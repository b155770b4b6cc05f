import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { inflateSync } from 'node:zlib'
import { expect } from 'chai'
import { createLog } from '../log.ts'
import { createCaptchas } from './captchas.ts'
import { drawDigits } from './picture.ts'

describe('captchas', () => {
  const clock = { now: 1_000_000 }
  const start = (command = '', limit = Infinity) => createCaptchas({ command: () => command, limit: () => limit, now: () => clock.now, log: createLog('silent') })
  let dir: string
  before(async () => { dir = await mkdtemp(path.join(tmpdir(), 'captcha-')) })
  after(() => rm(dir, { recursive: true }))

  /** A program as an operator writes it: the text becomes the comment behind a picture's header. */
  async function program(body: string): Promise<string> {
    const file = path.join(dir, `cmd-${Math.random()}`)
    await writeFile(file, `#!/bin/sh\n${body}\n`, { mode: 0o755 })
    return file
  }
  const PNG = "printf '\\211PNG\\r\\n\\032\\n%s' \"$1\""

  it('draws a picture that decoders read, another one each time', () => {
    const { bytes, width, height } = drawDigits('012345')
    expect(bytes.subarray(0, 8).toString('latin1')).to.equal('\x89PNG\r\n\x1a\n')
    expect([bytes.readUInt32BE(16), bytes.readUInt32BE(20)]).to.deep.equal([width, height])
    const length = bytes.readUInt32BE(33)
    expect(bytes.subarray(37, 41).toString()).to.equal('IDAT')
    const rows = inflateSync(bytes.subarray(41, 41 + length))
    expect(rows.length).to.equal(((width ?? 0) + 1) * (height ?? 0))
    // Dark digits on a light ground.
    expect(rows.filter((pixel) => pixel > 190).length).to.be.greaterThan(rows.length / 2)
    expect(rows.filter((pixel) => pixel < 90).length).to.be.greaterThan(rows.length / 50)
    expect(drawDigits('012345').bytes.equals(bytes)).to.equal(false)
  })

  it('takes the right answer, once, and in time', async () => {
    const captchas = start(await program(PNG))
    const textOf = async () => {
      const { id, picture } = await captchas.make('192.0.2.1')
      return { id, text: picture.bytes.subarray(8).toString() }
    }
    const first = await textOf()
    expect(first.text).to.match(/^\d{6}$/)
    expect(captchas.check(first.id, ` ${first.text} `)).to.equal(true)
    expect(captchas.check(first.id, first.text)).to.equal(false)
    const second = await textOf()
    expect(captchas.check(second.id, first.text === second.text ? 'x' : first.text)).to.equal(false)
    expect(captchas.check(second.id, second.text)).to.equal(false)
    const third = await textOf()
    clock.now += 181_000
    expect(captchas.check(third.id, third.text)).to.equal(false)
    expect(captchas.check('invented', '')).to.equal(false)
  })

  it('finds a picture by its cid as long as it waits', async () => {
    const captchas = start()
    const { id, cid, picture } = await captchas.make('192.0.2.1')
    expect(cid).to.match(/^sha1\+[0-9a-f]{40}@bob\.xmpp\.org$/)
    expect(captchas.find(cid)?.picture).to.equal(picture)
    captchas.check(id, '')
    expect(captchas.find(cid)).to.equal(undefined)
  })

  it('captcha_limit counts an address, or its network, each minute', async () => {
    const captchas = start('', 2)
    const condition = (address: string) => captchas.make(address).then(() => 'made', (error: { condition: string }) => error.condition)
    expect([await condition('2001:db8::1'), await condition('2001:db8::2'), await condition('2001:db8::3')]).to.deep.equal(['made', 'made', 'resource-constraint'])
    expect(await condition('192.0.2.1')).to.equal('made')
    clock.now += 60_000
    expect(await condition('2001:db8::3')).to.equal('made')
  })

  it('a program that fails, or writes no picture, is no way in', async () => {
    for (const body of ['exit 1', 'echo text', 'head -c 300000 /dev/zero']) {
      const error = await start(await program(body)).make('192.0.2.1').catch((reason: { condition: string }) => reason.condition)
      expect(error, body).to.equal('resource-constraint')
    }
    expect(await start('/nowhere/captcha.sh').make('192.0.2.1').catch((reason: { condition: string }) => reason.condition)).to.equal('resource-constraint')
  })
})
