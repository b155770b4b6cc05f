import { expect } from 'chai'
import fc from 'fast-check'
import { stringify } from 'yaml'
import { formatProblem, loadConfig } from './config.ts'
import { toNode } from './node.ts'
import { accessRule, bool, duration, either, headers, host, int, list, map, oneOf, OptionError, parseOptions, record, shaperRule, size, text, type OptionTable, type OptionType } from './options.ts'
import { didYouMean } from './problems.ts'

function read<T>(type: OptionType<T>, value: unknown): T | string {
  try {
    return type.parse(toNode(value))
  } catch (error) {
    if (!(error instanceof OptionError)) throw error
    return `! ${error.message}`
  }
}

describe('options', () => {
  it('reads booleans', () => {
    for (const yes of [true, 'yes', 'on', 'Y', 'true']) expect(read(bool(), yes), String(yes)).to.equal(true)
    for (const no of [false, 'no', 'off', 'n']) expect(read(bool(), no), String(no)).to.equal(false)
    expect(read(bool(), 1)).to.match(/"1" is not allowed here; expected true or false/)
    expect(read(bool(), null)).to.match(/nothing is not allowed/)
  })

  it('reads integers within their range', () => {
    expect(read(int({ min: 1, max: 5 }), 5)).to.equal(5)
    expect(read(int({ min: -5 }), '-3')).to.equal(-3)
    for (const wrong of [0, 6, 1.5, '1e3', '0x1', 'x', [1], {}]) expect(read(int({ min: 1, max: 5 }), wrong), JSON.stringify(wrong)).to.match(/expected an integer from 1 to 5/)
    expect(read(int({ infinity: true }), 'unlimited')).to.equal(Infinity)
    expect(read(int(), 'infinity')).to.match(/^!/)
  })

  it('reads times as milliseconds', () => {
    const cases: [unknown, number][] = [[5, 5000], ['5', 5000], ['30 s', 30_000], ['5 minutes', 300_000], ['5min', 300_000], ['1d', 86_400_000], ['2 hours', 7_200_000], ['100 ms', 100], ['infinity', Infinity]]
    for (const [written, ms] of cases) expect(read(duration(), written), String(written)).to.equal(ms)
    expect(read(duration({ unit: 'days' }), 2)).to.equal(172_800_000)
    for (const wrong of [0, -1, '5 fortnights', '', 'constructor', '1 toString']) expect(read(duration(), wrong), String(wrong)).to.match(/^! .*expected a time/)
  })

  it('reads sizes in bytes', () => {
    const cases: [unknown, number][] = [[262144, 262_144], ['10 MB', 10_485_760], ['1k', 1024], ['infinity', Infinity]]
    for (const [written, bytes] of cases) expect(read(size(), written), String(written)).to.equal(bytes)
    for (const wrong of ['ten', -1, '1 constructor']) expect(read(size(), wrong), String(wrong)).to.match(/^!/)
  })

  it('reads lists, single values, words, maps, domains and alternatives', () => {
    expect(read(list(text()), 'one')).to.deep.equal(['one'])
    expect(read(list(text()), ['one', 2])).to.deep.equal(['one', '2'])
    expect(read(list(text()), null)).to.deep.equal([])
    expect(read(oneOf('true', 'false', 'if_offline'), true)).to.equal('true')
    expect(read(oneOf('true', 'false', 'if_offline'), 'yes')).to.equal('true')
    expect(read(oneOf('true', 'false', 'if_offline'), 'never')).to.match(/one of true, false, if_offline/)
    expect([...read(map(int()), [{ a: 1 }, { b: 2 }]) as Map<string, number>]).to.deep.equal([['a', 1], ['b', 2]])
    expect(read(map(int()), 'x')).to.match(/^!/)
    expect(read(host(), 'Upload.@HOST@')).to.equal('upload.@HOST@')
    expect(read(host(), 'a b')).to.match(/^!/)
    expect(read(either(oneOf('auto'), int()), 5)).to.equal(5)
    expect(read(either(oneOf('auto'), int()), 'x')).to.match(/"auto", or an integer/)
    expect(read(record({ a: { type: int(), default: 1, help: '' } }), { a: 2 })).to.deep.equal({ a: 2 })
    expect(read(record({ a: { type: int(), default: 1, help: '' } }), { b: 2 })).to.match(/^! b: is not an option/)
  })

  it('keeps times for timers to what a timer can wait', () => {
    const timer = duration({ timer: true })
    expect([read(timer, 'infinity'), read(timer, '100 days'), read(timer, '1d')]).to.deep.equal([2 ** 31 - 1, 2 ** 31 - 1, 86_400_000])
    expect(read(duration(), '100 days')).to.equal(8_640_000_000)
    expect(read(duration({ infinity: false }), 'infinity')).to.match(/^! "infinity" is not allowed here; expected a time such as "30 s", "5 minutes" or "1d"; a bare/)
  })

  it('takes HTTP headers that can be sent', () => {
    expect(read(headers(), { 'X-Frame-Options': 'DENY' })).to.deep.equal(new Map([['X-Frame-Options', 'DENY']]))
    for (const wrong of [{ 'X Y': 'z' }, { 'X-Y': 'a\nb' }, { '': 'z' }]) expect(read(headers(), wrong), JSON.stringify(wrong)).to.match(/^! .*HTTP headers/)
  })

  it('keeps a rule by its name, or as it is defined in place', () => {
    expect(read(accessRule(), 'local')).to.equal('local')
    expect(read(accessRule(), [{ allow: 'admin' }])).to.match(/^=\{.*allow/)
    expect(read(shaperRule(), 1000)).to.equal('1000')
  })

  const table: OptionTable<{ a: number; b: boolean }> = {
    a: { type: int(), default: 1, help: '' },
    b: { type: bool(), default: false, help: '', ignored: 'is not done here.' },
  }

  it('fills in defaults, and keeps them where a value is wrong', () => {
    expect(parseOptions(table, undefined, { option: 'x' })).to.deep.equal({ options: { a: 1, b: false }, problems: [] })
    const { options, problems } = parseOptions(table, { a: 'no', c: 1 }, { option: 'modules.mod_x', file: 'f.yml', line: 3 })
    expect(options).to.deep.equal({ a: 1, b: false })
    expect(problems.map(formatProblem)).to.deep.equal([
      'f.yml:3: error: modules.mod_x.a: "no" is not allowed here; expected an integer of at least 0.',
      'f.yml:3: error: modules.mod_x.c: is not an option here. Known are a, b.',
    ])
  })

  it('an option that does nothing in some places is reported there alone', () => {
    let text: string | undefined = 'cannot be done here.'
    const asked: OptionTable<{ b: boolean }> = { b: { type: bool(), default: false, help: '', ignored: () => text } }
    expect(parseOptions(asked, { b: true }, { option: 'x' }).problems.map(({ level, text: said }) => [level, said])).to.deep.equal([['warning', 'cannot be done here.']])
    text = undefined
    expect(parseOptions(asked, { b: true }, { option: 'x' })).to.deep.equal({ options: { b: true }, problems: [] })
  })

  it('reports an option that does nothing only when it asks for something', () => {
    expect(parseOptions(table, { b: false }, { option: 'x' }).problems).to.deep.equal([])
    expect(parseOptions(table, { b: true }, { option: 'x' }).problems.map(({ level, text }) => [level, text])).to.deep.equal([['warning', 'is not done here.']])
  })

  it('is not misled by names that every object has', () => {
    for (const name of ['constructor', '__proto__', 'toString', 'hasOwnProperty']) {
      const raw = new Map([[name, 1]])
      expect(parseOptions(table, raw, { option: 'x' }).problems, name).to.have.length(1)
    }
  })

  it('suggests what is near and nothing else', () => {
    expect(didYouMean('mod_mamm', ['mod_mam', 'mod_muc'])).to.equal(' Did you mean "mod_mam"?')
    expect(didYouMean('acitve', ['active'])).to.equal(' Did you mean "active"?')
    expect(didYouMean('something', ['mod_mam'])).to.equal('')
  })

  it('survives any file', () => {
    const key = fc.oneof(fc.constantFrom('hosts', 'listen', 'modules', 'acl', 'access_rules', 'access', 'shaper', 'shaper_rules', 'host_config', 'append_host_config', 'tidings', 'limits', 'certfiles', 'loglevel', 'allow', 'deny', 'user', 'ip', 'port', 'module', 'request_handlers', 'define_macro', 'auth_method', 'a.example', 'mod_mam', '__proto__'), fc.string({ maxLength: 6 }))
    const leaf = fc.oneof(fc.constantFrom('a.example', 'ejabberd_c2s', 'all', 'allow', 'infinity', '127.0.0.0/8', '@HOST@', '@X@'), fc.string({ maxLength: 8 }), fc.integer(), fc.boolean(), fc.constant(null))
    const { tree } = fc.letrec((tie) => ({ tree: fc.oneof({ maxDepth: 5 }, leaf, fc.array(tie('tree'), { maxLength: 4 }), fc.dictionary(key, tie('tree'), { maxKeys: 6 })) }))
    fc.assert(fc.property(fc.dictionary(key, tree, { maxKeys: 10 }), (value) => {
      const { config, problems } = loadConfig('/x/any.yml', { env: {}, readText: (file) => { if (file === '/x/any.yml') return stringify(value); throw new Error('no such file') } })
      for (const name of config.hosts) {
        const { access } = config.host(name)
        access.allows('all', { address: '::1' })
        access.shaper('c2s_shaper', {})
      }
      for (const problem of problems) expect(formatProblem(problem)).to.be.a('string')
    }), { numRuns: 300 })
  })
})
