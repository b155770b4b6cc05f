import { expect } from 'chai'
import { createMetrics } from './metrics.ts'

describe('metrics', () => {
  it('are rendered in the Prometheus text format', async () => {
    const metrics = createMetrics({ processMetrics: false })
    metrics.counter('stanzas_total', 'Stanzas', ['kind']).inc(2, { kind: 'message' })
    metrics.counter('stanzas_total', 'Stanzas', ['kind']).inc(1, { kind: 'message' })
    metrics.gauge('sessions', 'Sessions', [], () => 7)
    metrics.histogram('commit_seconds', 'Commit', [0.01, 1]).observe(0.5)
    const text = await metrics.render()
    expect(text).to.contain('stanzas_total{kind="message"} 3')
    expect(text).to.contain('sessions 7')
    expect(text).to.contain('commit_seconds_bucket{le="1"} 1')
  })

  it('of the process are there unless they are not wanted', async () => {
    expect(await createMetrics().render()).to.contain('tidings_nodejs_eventloop_lag_seconds')
  })
})
