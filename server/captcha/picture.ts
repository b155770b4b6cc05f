/** A picture of digits that people read more easily than programs: a PNG, which every client can show. */
import { randomBytes, randomInt } from 'node:crypto'
import { crc32, deflateSync } from 'node:zlib'

const GLYPH = 40
const HEIGHT = 80
const MARGIN = 18
const STROKE = 2.6

type Point = readonly [number, number]

/** Each digit as lines through points of a square from 0 to 1. */
const DIGITS: readonly (readonly (readonly Point[])[])[] = [
  [[[0.5, 0], [0.15, 0.2], [0.1, 0.5], [0.15, 0.8], [0.5, 1], [0.85, 0.8], [0.9, 0.5], [0.85, 0.2], [0.5, 0]]],
  [[[0.2, 0.25], [0.55, 0], [0.55, 1]], [[0.2, 1], [0.9, 1]]],
  [[[0.12, 0.25], [0.3, 0.03], [0.7, 0.03], [0.88, 0.25], [0.8, 0.48], [0.1, 1], [0.92, 1]]],
  [[[0.15, 0.12], [0.5, 0], [0.82, 0.12], [0.82, 0.36], [0.45, 0.48], [0.85, 0.6], [0.88, 0.85], [0.5, 1], [0.12, 0.88]]],
  [[[0.7, 1], [0.7, 0], [0.08, 0.68], [0.95, 0.68]]],
  [[[0.85, 0], [0.22, 0], [0.16, 0.45], [0.55, 0.38], [0.88, 0.6], [0.82, 0.9], [0.45, 1], [0.1, 0.88]]],
  [[[0.8, 0.02], [0.4, 0.15], [0.12, 0.6], [0.22, 0.92], [0.55, 1], [0.88, 0.82], [0.82, 0.55], [0.5, 0.46], [0.15, 0.62]]],
  [[[0.08, 0], [0.9, 0], [0.4, 1]], [[0.28, 0.5], [0.78, 0.5]]],
  [[[0.5, 0.46], [0.18, 0.3], [0.22, 0.08], [0.5, 0], [0.78, 0.08], [0.82, 0.3], [0.5, 0.46], [0.12, 0.66], [0.16, 0.92], [0.5, 1], [0.84, 0.92], [0.88, 0.66], [0.5, 0.46]]],
  [[[0.85, 0.38], [0.5, 0.54], [0.18, 0.45], [0.12, 0.18], [0.45, 0], [0.78, 0.08], [0.88, 0.4], [0.6, 0.85], [0.2, 0.98]]],
]

export interface Picture {
  readonly type: string
  readonly bytes: Buffer
  /** Pixels; undefined when a program of the operator's made it. */
  readonly width?: number
  readonly height?: number
}

/** Draws a text of digits; each picture of it is another. */
export function drawDigits(text: string): Picture {
  const width = MARGIN * 2 + GLYPH * text.length
  const canvas = new Float32Array(width * HEIGHT)
  // The whole line waves, each digit leans, and lines cross them that are as thick.
  const wave = (point: Point, phase: number): Point => [point[0] + 3 * Math.sin(point[1] / 13 + phase), point[1] + 6 * Math.sin(point[0] / 31 + phase)]
  const phase = between(0, 6.28)
  Array.from(text).forEach((digit, index) => {
    const angle = between(-0.32, 0.32)
    const [wide, high, lean] = [between(0.6, 0.75) * GLYPH, between(0.95, 1.15) * GLYPH, between(-0.2, 0.2)]
    const centre: Point = [MARGIN + GLYPH * (index + 0.5) + between(-3, 3), HEIGHT / 2 + between(-4, 4)]
    const place = ([x, y]: Point): Point => {
      const [u, v] = [(x - 0.5 + lean * (0.5 - y)) * wide, (y - 0.5) * high]
      return wave([centre[0] + u * Math.cos(angle) - v * Math.sin(angle), centre[1] + u * Math.sin(angle) + v * Math.cos(angle)], phase)
    }
    const radius = STROKE + between(-0.4, 0.5)
    for (const line of DIGITS[Number(digit)] ?? []) drawCurve(canvas, width, line.map(place), radius)
  })
  for (let line = 0; line < 3; line++) {
    const y = between(15, HEIGHT - 15)
    const [a, b, at] = [between(5, 16), between(18, 40), between(0, 6.28)]
    drawCurve(canvas, width, Array.from({ length: 12 }, (_, step): Point => [(step / 11) * width, y + a * Math.sin(((step / 11) * width) / b + at)]), between(0.8, 1.3))
  }
  const pixels = Buffer.alloc(width * HEIGHT)
  const noise = randomBytes(pixels.length)
  for (let at = 0; at < pixels.length; at++) pixels[at] = Math.round(230 - 196 * (canvas[at] as number)) + ((noise[at] as number) >> 5) * 6 - 24
  return { type: 'image/png', bytes: grayPng(width, HEIGHT, pixels), width, height: HEIGHT }
}

/** A smooth curve through the points, with round ends. */
function drawCurve(canvas: Float32Array, width: number, points: readonly Point[], radius: number): void {
  const steps = 6
  for (let index = 0; index + 1 < points.length; index++) {
    const [p1, p2] = [points[index] as Point, points[index + 1] as Point]
    const [p0, p3] = [points[index - 1] ?? p1, points[index + 2] ?? p2]
    // Catmull and Rom's spline, held tight so that corners stay.
    const at = (t: number): Point => [0, 1].map((axis) => {
      const [a, b, c, d] = [p0[axis] as number, p1[axis] as number, p2[axis] as number, p3[axis] as number]
      const [m1, m2] = [(c - a) * 0.35, (d - b) * 0.35]
      return (2 * t ** 3 - 3 * t ** 2 + 1) * b + (t ** 3 - 2 * t ** 2 + t) * m1 + (-2 * t ** 3 + 3 * t ** 2) * c + (t ** 3 - t ** 2) * m2
    }) as unknown as Point
    for (let step = 0; step < steps; step++) drawLine(canvas, width, at(step / steps), at((step + 1) / steps), radius)
  }
}

function drawLine(canvas: Float32Array, width: number, [ax, ay]: Point, [bx, by]: Point, radius: number): void {
  const reach = radius + 1
  const length = (bx - ax) ** 2 + (by - ay) ** 2
  for (let y = Math.max(0, Math.floor(Math.min(ay, by) - reach)); y <= Math.min(HEIGHT - 1, Math.ceil(Math.max(ay, by) + reach)); y++) {
    for (let x = Math.max(0, Math.floor(Math.min(ax, bx) - reach)); x <= Math.min(width - 1, Math.ceil(Math.max(ax, bx) + reach)); x++) {
      const t = length === 0 ? 0 : Math.max(0, Math.min(1, ((x - ax) * (bx - ax) + (y - ay) * (by - ay)) / length))
      const distance = Math.sqrt((x - ax - t * (bx - ax)) ** 2 + (y - ay - t * (by - ay)) ** 2)
      const at = y * width + x
      canvas[at] = Math.max(canvas[at] as number, Math.min(1, Math.max(0, radius + 0.5 - distance)))
    }
  }
}

/** PNG, third edition: eight bits of grey for each pixel. */
function grayPng(width: number, height: number, pixels: Buffer): Buffer {
  const header = Buffer.alloc(13)
  header.writeUInt32BE(width, 0)
  header.writeUInt32BE(height, 4)
  header[8] = 8 // bits; colour type 0 is grey
  const rows = Buffer.alloc((width + 1) * height) // each row begins with its filter: none
  for (let y = 0; y < height; y++) pixels.copy(rows, y * (width + 1) + 1, y * width, (y + 1) * width)
  return Buffer.concat([Buffer.from('\x89PNG\r\n\x1a\n', 'latin1'), chunk('IHDR', header), chunk('IDAT', deflateSync(rows)), chunk('IEND', Buffer.alloc(0))])
}

function chunk(name: string, data: Buffer): Buffer {
  const named = Buffer.concat([Buffer.from(name, 'latin1'), data])
  const [length, check] = [Buffer.alloc(4), Buffer.alloc(4)]
  length.writeUInt32BE(data.length)
  check.writeUInt32BE(crc32(named))
  return Buffer.concat([length, named, check])
}

function between(from: number, to: number): number {
  return from + (to - from) * (randomInt(1_000_000) / 1_000_000)
}
