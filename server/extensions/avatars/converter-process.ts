/** The process that converts images (converter.ts). It reads what strangers sent: it has no configuration, no secrets and no storage. */
import { RESULT_BYTES_MAX, PIXELS_MAX, SIDES, type Reply, type Work } from './converter-work.ts'

const sharp = await import('sharp').then((module) => module.default, () => undefined)
if (process.argv.includes('--check')) process.exit(sharp === undefined ? 1 : 0)

if (sharp !== undefined) {
  sharp.cache(false)
  sharp.concurrency(1)
  // Of some twenty formats, whose readers are of very different age, the four of avatars.
  sharp.block({ operation: ['VipsForeignLoad'] })
  sharp.unblock({ operation: ['VipsForeignLoadPngBuffer', 'VipsForeignLoadJpegBuffer', 'VipsForeignLoadNsgifBuffer', 'VipsForeignLoadWebpBuffer'] })
}

async function convert({ image, to }: Work): Promise<Reply> {
  if (sharp === undefined) return { failed: 'missing' }
  try {
    for (const side of SIDES) {
      // The first picture of an animation. What a file says beside its picture (place, camera) is left out, but how it is to be turned is done.
      const picture = sharp(image, { limitInputPixels: PIXELS_MAX, failOn: 'error', pages: 1 }).autoOrient().resize(side, side, { fit: 'inside', withoutEnlargement: true })
      if (to === 'jpeg') picture.flatten({ background: '#ffffff' })
      const result = await picture.toFormat(to).toBuffer()
      if (result.length <= RESULT_BYTES_MAX) return { image: result }
    }
  } catch {
    // Not an image after all, or a broken one.
  }
  return { failed: 'invalid' }
}

process.on('message', (work: Work) => { void convert(work).then((reply) => process.send?.(reply)) })
// Its server is gone: what is being converted is for nobody.
process.on('disconnect', () => { process.kill(process.pid, 'SIGKILL') })
