import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFile } from 'node:fs/promises'
import path from 'node:path'
import { expect } from 'chai'
import { judge, type Outcome, readKnown, readResults, type Result } from './smack.ts'

const result = (test: string, outcome: Outcome, reason = ''): Result => ({ outcome, specification: 'XEP-0199', test, reason })

describe("Smack's tests", () => {
  it('are read from lines of outcome, specification, name and reason', () => {
    expect(readResults('passed\tXEP-0199\tPing.one\t\nfailed\t\tPing.two\tno answer\n')).to.deep.equal([
      result('Ping.one', 'passed'), { outcome: 'failed', specification: '', test: 'Ping.two', reason: 'no answer' },
    ])
    expect(() => readResults('lost\tXEP-0199\tPing.one\t\n')).to.throw('no result')
  })

  it('have failed when they fail three times and nobody knew', () => {
    const first = [result('Ping.fine', 'passed'), result('Ping.shaky', 'failed', 'late'), result('Ping.shakier', 'failed', 'later'), result('Ping.broken', 'failed', 'silence'), result('Pep.mood', 'failed', 'no PEP'), result('Muc.join', 'impossible', 'no MUC')]
    const again = [
      [result('Ping.shaky', 'passed'), result('Ping.shakier', 'failed', 'late'), result('Ping.broken', 'failed', 'silence')],
      [result('Ping.shakier', 'passed'), result('Ping.broken', 'failed', 'silence')],
    ]
    const { passed, failed, impossible, known } = judge(first, again, new Map([['Pep.mood', 'PEP']]))
    expect(passed.map((each) => [each.test, each.reason])).to.deep.equal([['Ping.fine', ''], ['Ping.shaky', 'at the second try; at the first: late'], ['Ping.shakier', 'at the third try; at the first: later']])
    expect(failed.map((each) => each.test)).to.deep.equal(['Ping.broken'])
    expect(impossible.map((each) => each.test)).to.deep.equal(['Muc.join'])
    expect(known.map((each) => [each.test, each.needs])).to.deep.equal([['Pep.mood', 'PEP']])
  })

  it('have failed when no later run reached them, and have passed although they were known to fail', () => {
    expect(judge([result('Ping.one', 'failed')], [], new Map()).failed).to.have.length(1)
    expect(judge([result('Pep.mood', 'passed')], [], new Map([['Pep.mood', 'PEP']])).passed).to.have.length(1)
  })

  it('fail for reasons that are written down, each on a line', async () => {
    expect([...readKnown('# why\n\nPep.mood   PEP (XEP-0163)\n')]).to.deep.equal([['Pep.mood', 'PEP (XEP-0163)']])
    const text = await readFile(path.join(import.meta.dirname, 'known-failures.txt'), 'utf8')
    expect(readKnown(text).size).to.equal(text.split('\n').filter((line) => line !== '' && !line.startsWith('#')).length)
  })

  it('are not run without Java, which is no failure, and no success', async () => {
    const child = spawn(process.execPath, [path.join(import.meta.dirname, '../run.ts'), '--only', 'smack'], { env: { ...process.env, PATH: import.meta.dirname } })
    let out = ''
    child.stdout.on('data', (chunk) => { out += String(chunk) })
    const [code] = (await once(child, 'close')) as [number]
    expect(out).to.match(/smack: not run\. java is missing: .*apt-get install .*--install/)
    expect(code).to.equal(3)
  })

  it('are asked for in a way that is understood', async () => {
    for (const args of [['--only', 'nonsense'], ['--only', 'plays', '--tests', 'nonsense']]) {
      const child = spawn(process.execPath, [path.join(import.meta.dirname, '../run.ts'), ...args])
      const [code] = (await once(child, 'close')) as [number]
      expect(code, args.join(' ')).to.equal(2)
    }
  })
})
