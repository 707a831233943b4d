/** A series of a scrape. */
export interface Sample {
  readonly name: string
  readonly labels: Readonly<Record<string, string>>
  readonly value: number
}

/** A metric of a scrape. */
export interface Metric {
  readonly name: string
  readonly help: string
  readonly type: string
  readonly samples: readonly Sample[]
}

const metricName = '[a-zA-Z_:][a-zA-Z0-9_:]*'
const label = String.raw`([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\[\\n"])*)"`
const sampleLine = new RegExp(`^(${metricName})(?:\\{(${label}(?:,${label})*)?,?\\})? (\\S+)$`)

/**
 * Reads Prometheus' text format, and takes nothing that is not as the format wants it
 * (https://prometheus.io/docs/instrumenting/exposition_formats/).
 *
 * @throws {Error} saying which line is wrong
 */
export function parseExposition(text: string): Map<string, Metric> {
  const metrics = new Map<string, Metric & { samples: Sample[] }>()
  const series = new Set<string>()
  let current: (Metric & { samples: Sample[] }) | undefined
  let help: { name: string; text: string } | undefined
  if (!text.endsWith('\n')) throw new Error('the last line has no end')
  for (const line of text.slice(0, -1).split('\n')) {
    const wrong = (why: string) => new Error(`${why}: ${line}`)
    const [, keyword, named = '', rest = ''] = /^# (HELP|TYPE) (\S+) (.*)$/s.exec(line) ?? []
    if (keyword === 'HELP') {
      if (metrics.has(named)) throw wrong('a second HELP')
      help = { name: named, text: rest }
    } else if (keyword === 'TYPE') {
      if (help?.name !== named) throw wrong('a TYPE without its HELP before it')
      if (!['counter', 'gauge', 'histogram', 'summary'].includes(rest)) throw wrong('no type')
      current = { name: named, help: help.text, type: rest, samples: [] }
      metrics.set(named, current)
      help = undefined
    } else {
      const sample = parseSample(line)
      if (sample === undefined) throw wrong('no sample')
      const suffixes = current?.type === 'histogram' ? ['_bucket', '_sum', '_count'] : ['']
      if (!suffixes.some((suffix) => sample.name === `${current?.name}${suffix}`)) throw wrong('not below its metric')
      const key = `${sample.name} ${keyOf(sample.labels)}`
      if (series.has(key)) throw wrong('a series that was there before')
      series.add(key)
      current?.samples.push(sample)
    }
  }
  for (const metric of metrics.values()) if (metric.type === 'histogram') checkHistogram(metric)
  return metrics
}

function parseSample(line: string): Sample | undefined {
  const [, name, labels = '', ...found] = sampleLine.exec(line) ?? []
  const text = found.at(-1) ?? ''
  // As Go reads a number.
  const value = /^[+-]?inf$/i.test(text) ? Number(text.replace(/inf/i, 'Infinity')) : Number(text)
  if (name === undefined || (Number.isNaN(value) && !/^nan$/i.test(text))) return undefined
  const pairs = [...labels.matchAll(new RegExp(label, 'g'))].map(([, key = '', escaped = '']): [string, string] => [
    key,
    escaped.replace(/\\(.)/g, (_, char: string) => (char === 'n' ? '\n' : char)),
  ])
  return new Set(pairs.map(([key]) => key)).size === pairs.length
    ? { name, labels: Object.fromEntries(pairs), value }
    : undefined
}

/** Buckets are cumulative and ascending, and the last is the count. */
function checkHistogram({ name, samples }: Metric): void {
  for (const group of Map.groupBy(samples, ({ labels }) => keyOf({ ...labels, le: '' })).values()) {
    const buckets = group.filter((sample) => sample.name === `${name}_bucket`)
    const bounds = buckets.map(({ labels: { le = '' } }) => Number(le.replace('+Inf', 'Infinity')))
    const counts = buckets.map(({ value }) => value)
    const isWhole =
      ascends(bounds) &&
      ascends(counts) &&
      bounds.at(-1) === Number.POSITIVE_INFINITY &&
      counts.at(-1) === readValue(group, `${name}_count`) &&
      readValue(group, `${name}_sum`) !== undefined
    if (!isWhole) throw new Error(`${name} is no histogram: ${JSON.stringify(group)}`)
  }
}

function ascends(numbers: readonly number[]): boolean {
  return numbers.every((number, index) => number >= (numbers[index - 1] ?? Number.NEGATIVE_INFINITY))
}

/** Labels have no order. */
function keyOf(labels: Readonly<Record<string, string>>): string {
  return JSON.stringify(Object.entries(labels).sort(([a], [b]) => a.localeCompare(b)))
}

/** The value of the only series that has this name and these labels. */
export function readValue(
  from: ReadonlyMap<string, Metric> | readonly Sample[],
  name: string,
  labels: Readonly<Record<string, string>> = {},
): number | undefined {
  const samples = from instanceof Map ? [...from.values()].flatMap((metric: Metric) => metric.samples) : from
  const found = (samples as readonly Sample[]).filter(
    (sample) => sample.name === name && Object.entries(labels).every(([key, value]) => sample.labels[key] === value),
  )
  if (found.length > 1) throw new Error(`${found.length} series are ${name} ${JSON.stringify(labels)}`)
  return found[0]?.value
}
