import { spawnSync } from 'node:child_process'
import { copyFile, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { expect } from 'chai'
import { imageInfo } from '../image-info.ts'
import { canConvert, ConversionError, type Converter, createConverter } from './converter.ts'
import { IMAGE_FORMATS, RESULT_BYTES_MAX } from './converter-work.ts'
import { noise, picture, reader } from './pictures.fixture.ts'

const failure = (converting: Promise<Buffer>): Promise<string> =>
  converting.then(() => 'none', (error: unknown) => (error instanceof ConversionError ? error.why : String(error)))

describe('converting images', () => {
  let converter: Converter
  before(function () {
    if (!canConvert()) this.skip()
  })
  beforeEach(() => { converter = createConverter() })
  afterEach(() => { converter.close() })

  it('converts each format to each other, and keeps the size', async () => {
    for (const from of IMAGE_FORMATS) {
      const image = await picture(from, 40, 30)
      expect(imageInfo(image), from).to.deep.equal({ type: `image/${from}`, width: 40, height: 30 })
      for (const to of IMAGE_FORMATS) {
        if (to === from) continue
        expect(imageInfo(await converter.convert(image, to)), `${from} ${to}`).to.deep.equal({ type: `image/${to}`, width: 40, height: 30 })
      }
    }
  })

  it('what is transparent becomes white where there is no transparency', async () => {
    const clear = await (await reader())({ create: { width: 8, height: 8, channels: 4, background: '#00000000' } }).png().toBuffer()
    const { data } = await (await reader())(await converter.convert(clear, 'jpeg')).raw().toBuffer({ resolveWithObject: true })
    expect([...data.subarray(0, 3)]).to.deep.equal([255, 255, 255])
  })

  it('turns an image as its camera says, and leaves out what else that said', async () => {
    const turned = await (await reader())(await picture('jpeg', 40, 30)).withMetadata({ orientation: 6 }).jpeg().toBuffer()
    const result = await converter.convert(turned, 'png')
    expect(imageInfo(result)).to.deep.equal({ type: 'image/png', width: 30, height: 40 })
    const { exif, orientation } = await (await reader())(result).metadata()
    expect([exif, orientation]).to.deep.equal([undefined, undefined])
  })

  it('a result that would have too many bytes is made smaller', async () => {
    const result = await converter.convert(await noise('jpeg', 700, 350), 'png')
    expect(result.length).to.be.at.most(RESULT_BYTES_MAX)
    const { width = 0, height = 0 } = imageInfo(result) ?? {}
    expect(width).to.be.below(700)
    expect(Math.round(width / height)).to.equal(2)
  })

  it('refuses what is no image of a format that it knows, is broken, or has too many pixels or bytes', async () => {
    const whole = await noise('png', 100, 100)
    const lying = Buffer.from(whole)
    lying.writeUInt32BE(60_000, 16)
    lying.writeUInt32BE(60_000, 20)
    const bomb = await (await reader())({ create: { width: 5000, height: 5000, channels: 3, background: '#000000' } }).png().toBuffer()
    expect(bomb.length).to.be.below(100_000)
    const hostile = {
      svg: Buffer.from("<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>"),
      text: Buffer.from('hello'), empty: Buffer.alloc(0),
      cut: whole.subarray(0, whole.length >> 1),
      header: Buffer.from('GIF89a\x02\x00\x03\x00\x80\x00\x00', 'latin1'),
      // What is beneath a wrong first signature is not looked for either.
      wrapped: Buffer.concat([Buffer.from('\x89PNG\r\n\x1a\n', 'latin1'), Buffer.from("<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>")]),
      lying, bomb,
      long: Buffer.concat([whole, Buffer.alloc(1_100_000)]),
    }
    for (const [name, image] of Object.entries(hostile)) expect(await failure(converter.convert(image, 'webp')), name).to.equal('invalid')
    expect(imageInfo(await converter.convert(whole, 'webp'))?.type).to.equal('image/webp')
  })

  it('takes the first picture of an animation', async () => {
    const frames = await (await reader())({ create: { width: 10, height: 40, channels: 3, background: '#ff0000', pageHeight: 10 } }).gif().toBuffer()
    expect(imageInfo(await converter.convert(frames, 'webp'))).to.deep.equal({ type: 'image/webp', width: 10, height: 10 })
  })

  it('gives up an image that takes too long', async () => {
    const hasty = createConverter({ timeoutMs: 1 })
    expect(await failure(hasty.convert(await picture('png', 9, 9), 'webp'))).to.equal('invalid')
    hasty.close()
  })

  it('lets some wait, and refuses others until they are done', async () => {
    const image = await picture('png', 9, 9)
    const results = await Promise.all(Array.from({ length: 40 }, () => failure(converter.convert(image, 'webp'))))
    expect(results.filter((why) => why === 'none')).to.have.length(33)
    expect(results.filter((why) => why === 'busy')).to.have.length(7)
    expect(await failure(converter.convert(image, 'webp'))).to.equal('none')
  })

  it('what is closed converts no more of what it had, and begins again when it is asked again', async () => {
    const image = await picture('png', 9, 9)
    const converting = [failure(converter.convert(image, 'webp')), failure(converter.convert(image, 'webp'))]
    converter.close()
    expect(await Promise.all(converting)).to.deep.equal(['busy', 'busy'])
    expect(await failure(converter.convert(image, 'webp'))).to.equal('none')
  })

  it('says that it is missing where its package cannot be loaded', async () => {
    const elsewhere = await mkdtemp(path.join(tmpdir(), 'tidings-'))
    for (const file of ['converter-process.ts', 'converter-work.ts']) await copyFile(path.join(import.meta.dirname, file), path.join(elsewhere, file))
    const program = path.join(elsewhere, 'converter-process.ts')
    expect(spawnSync(process.execPath, [program, '--check'], { stdio: 'ignore' }).status).to.equal(1)
    const lone = createConverter({ program })
    expect(await failure(lone.convert(await picture('png', 9, 9), 'webp'))).to.equal('missing')
    lone.close()
    await rm(elsewhere, { recursive: true })
  })

  it('goes on with another process after one that was idle has ended', async () => {
    const tired = createConverter({ idleMs: 1 })
    const image = await picture('png', 9, 9)
    expect(await failure(tired.convert(image, 'webp'))).to.equal('none')
    await new Promise((resolve) => { setTimeout(resolve, 50) })
    expect(await failure(tired.convert(image, 'webp'))).to.equal('none')
    tired.close()
  })
})
