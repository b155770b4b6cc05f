/** Counters, gauges and histograms, rendered in the Prometheus text format. */
import { Counter, Gauge, Histogram, Registry, collectDefaultMetrics } from 'prom-client'

export type Labels = Readonly<Record<string, string>>

export interface CounterMetric { inc(n?: number, labels?: Labels): void }
export interface GaugeMetric { set(value: number, labels?: Labels): void; inc(n?: number, labels?: Labels): void; dec(n?: number, labels?: Labels): void }
export interface HistogramMetric { observe(seconds: number): void }

/** Asking twice for one name answers the same metric: each host's extensions share theirs. */
export interface Metrics {
  counter(name: string, help: string, labels?: readonly string[]): CounterMetric
  /** `collect` is asked for the value whenever the metrics are rendered. */
  gauge(name: string, help: string, labels?: readonly string[], collect?: () => number): GaugeMetric
  histogram(name: string, help: string, buckets: readonly number[]): HistogramMetric
}

const DURATION_BUCKETS = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5]

/** What a process tells of its metrics. */
export interface OwnMetrics {
  render(): Promise<string>
  /** What `render` says, for a process that puts those of several together. */
  values(): Promise<Awaited<ReturnType<Registry['getMetricsAsJSON']>>>
  /** All metrics carry these from now on. */
  label(labels: Labels): void
  readonly contentType: string
}

/**
 * A set of metrics of its own, so that several servers can live in one process (tests).
 * `processMetrics` adds memory, CPU, event loop delay and garbage collection of this process.
 */
export function createMetrics(options: { processMetrics?: boolean } = {}): Metrics & OwnMetrics {
  const registry = new Registry()
  const known = new Map<string, CounterMetric | GaugeMetric | HistogramMetric>()
  if (options.processMetrics ?? true) collectDefaultMetrics({ register: registry, prefix: 'tidings_', gcDurationBuckets: DURATION_BUCKETS })

  /** The metric made before under this name, or a new one. */
  function once<T extends CounterMetric | GaugeMetric | HistogramMetric>(name: string, make: () => T): T {
    const existing = known.get(name)
    if (existing !== undefined) return existing as T
    const made = make()
    known.set(name, made)
    return made
  }

  return {
    counter: (name, help, labels = []) => once(name, () => {
      const counter = new Counter({ name, help, labelNames: [...labels], registers: [registry] })
      return { inc: (n = 1, values = {}) => { counter.inc(values, n) } }
    }),
    gauge: (name, help, labels = [], collect) => once(name, () => {
      const gauge: Gauge = new Gauge({
        name, help, labelNames: [...labels], registers: [registry],
        ...(collect ? { collect(this: Gauge) { this.set(collect()) } } : {}),
      })
      return {
        set: (value, values = {}) => { gauge.set(values, value) },
        inc: (n = 1, values = {}) => { gauge.inc(values, n) },
        dec: (n = 1, values = {}) => { gauge.dec(values, n) },
      }
    }),
    histogram: (name, help, buckets) => once(name, () => {
      const histogram = new Histogram({ name, help, buckets: [...buckets], registers: [registry] })
      return { observe: (seconds) => { histogram.observe(seconds) } }
    }),
    render: () => registry.metrics(),
    values: () => registry.getMetricsAsJSON(),
    label: (labels) => { registry.setDefaultLabels(labels) },
    contentType: registry.contentType,
  }
}
