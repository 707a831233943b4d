import { execFileSync, spawnSync } from 'node:child_process'
import { globSync, mkdirSync, writeFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { expect, test } from 'vitest'
import { kinds } from '../../src/alerts/conditions.ts'
import { webhookBody } from '../../src/simulator/webhook-body.ts'
import { startAlertTarget } from '../support/alert-target.ts'
import { blocksOf, blockWith, tableOf } from '../support/docs.ts'
import { type Metric, parseExposition, readValue } from '../support/exposition.ts'
import { dealBody, startReceiver, TOKEN, temporaryFolder, until } from '../support/receiver.ts'

const page = 'docs/monitoring.md'
const hasPromtool = spawnSync('promtool', ['--version']).error === undefined
const portal = { domain: 'example.bitrix24.com', memberId: 'a223c6b3710f85df22e9377d6c4f7553', token: TOKEN }

/** The metrics of a receiver that has a value for every metric. */
async function scrape(): Promise<string> {
  const receiver = await startReceiver({
    env: { B24_HOOK: 'https://example.bitrix24.com/rest/1/abc/' },
    handlers: { 'ONCRMDEALUPDATE.mjs': 'export default () => {}' },
  })
  await receiver.post(dealBody(1))
  await receiver.post(webhookBody({ event: 'ONCRMDEALADD', data: { FIELDS: 'none' }, ts: 1736405807, portal }))
  return until('a run is in the metrics', async () => {
    const text = await receiver.scrape()
    const metrics = parseExposition(text)
    const isComplete =
      readValue(metrics, 'b24_handler_run_seconds_count', { outcome: 'handled' }) &&
      readValue(metrics, 'b24_deliveries', { state: 'dead' }) === 0
    return isComplete ? text : undefined
  })
}

test('the table of alerts has every kind, and an alert looks like the one shown', async () => {
  expect(tableOf(page, '`kind`', 'when', 'over').map(([kind]) => kind)).toEqual(
    Object.keys(kinds).map((kind) => `\`${kind}\``),
  )
  const target = await startAlertTarget()
  const receiver = await startReceiver({
    env: { ALERT_URL: target.url },
    handlers: {
      'ONCRMDEALUPDATE.mjs': `import { FinalError } from 'bitrix24-webhook-receiver'
export default () => { throw new FinalError('no such deal') }`,
    },
  })
  await receiver.post(dealBody(662))
  const alert = await target.got('dead_delivery')
  const [event] = await receiver.journal()
  const shown = blockWith(page, '"kind":')
    .replaceAll('hooks-1', alert.host)
    .replaceAll('019aaf6e-1c2b-7a10-8f5e-3b6c1d2e4f50', event?.id ?? '')
  const expected: unknown = JSON.parse(shown)
  expect(alert).toEqual({ ...Object(expected), at: alert.at, since: alert.since })
  expect(Object.keys(alert)).toEqual(Object.keys(Object(expected)))
})

const rules = blockWith(page, 'groups:')
const expressions = [...rules.matchAll(/^ +expr: (.*)$/gm)].map(([, expression = '']) => expression)

test('the table of metrics is that of a scrape, and the alert rules use no other metrics', async () => {
  const text = await scrape()
  const metrics = [...parseExposition(text).values()]
  const labelsOf = ({ samples }: Metric) => {
    const names = new Set(samples.flatMap(({ labels }) => Object.keys(labels)).filter((name) => name !== 'le'))
    return [...names].map((name) => `\`${name}\``).join(', ')
  }
  const ours = metrics.filter(({ name }) => name.startsWith('b24_'))
  const rows = ours.map((metric) => [`\`${metric.name}\``, metric.type, labelsOf(metric), metric.help])
  const byName = ([a = '']: string[], [b = '']: string[]) => a.localeCompare(b)
  expect(tableOf(page, 'metric', 'type', 'labels', 'what it says').sort(byName)).toEqual(rows.sort(byName))
  const others = metrics.filter(({ name }) => !name.startsWith('b24_'))
  expect(others.map(labelsOf).filter((labels) => labels !== '' && !labels.includes('`component`'))).toEqual([])
  for (const named of ['process_resident_memory_bytes', 'nodejs_eventloop_lag_p99_seconds'])
    expect(others.map(({ name }) => name)).toContain(named)

  const series = new Set(ours.flatMap(({ name, samples }) => [name, ...samples.map((sample) => sample.name)]))
  const functions = ['increase', 'rate', 'histogram_quantile', 'time', 'max_over_time', 'min_over_time', 'max']
  const keywords = ['or', 'unless', 'by', 'on', 'bool', 'job', 'instance']
  const args = expressions.flatMap((expression) => expression.replace(/\{.*?\}|\[.*?\]/g, '').match(/[a-z]\w+/gi) ?? [])
  const asked = args.filter((word) => ![...functions, ...keywords].includes(word))
  expect(asked.filter((word) => !series.has(word))).toEqual(['up'])
  const matchers = expressions.flatMap((expression) => [...expression.matchAll(/(\w+)\{(\w+)="(.*?)"\}/g)])
  for (const [, name = '', label = '', value = ''] of matchers.filter(([, name]) => name !== 'up'))
    expect(readValue(parseExposition(text), name, { [label]: value }), `${name} ${value}`).toBeDefined()
})

test.skipIf(!hasPromtool)('promtool accepts the alert rules and a scrape', async () => {
  const { stderr } = spawnSync('promtool', ['check', 'metrics'], { input: await scrape(), encoding: 'utf8' })
  // It complains about the names of some of Node's own metrics.
  expect(stderr.split('\n').filter((line) => line !== '' && !line.startsWith('nodejs_'))).toEqual([])

  const folder = temporaryFolder('prometheus')
  writeFileSync(join(folder, 'rules.yaml'), rules)
  writeFileSync(
    join(folder, 'prometheus.yaml'),
    `rule_files: [rules.yaml]\n${blockWith(page, 'job_name: bitrix24\n    static_configs:\n      - targets')}`,
  )
  const said = execFileSync('promtool', ['check', 'config', join(folder, 'prometheus.yaml')], { encoding: 'utf8' })
  expect(said).toContain(`SUCCESS: ${expressions.length} rules found`)
})

test('the patterns for shippers match the segments, and nothing else', () => {
  const folder = temporaryFolder('data')
  mkdirSync(join(folder, 'journal'))
  const files = ['000000000001-2026-11-23.ndjson', '000000000002-2026-11-23.ndjson']
  for (const name of [
    ...files.map((file) => `journal/${file}`),
    'events.ndjson',
    'journal/000000000001-2026-11-23.ndjson.cut',
    'journal/probe',
  ])
    writeFileSync(join(folder, name), '')
  const globs = blocksOf(page).flatMap(({ text }) => text.match(/\/srv\/[\w/-]+\/data\/[^"\]\s]+/g) ?? [])
  // syslog-ng has the pattern in a setting of its own.
  const [folders, patterns] = [globs.filter((glob) => !glob.includes('*')), globs.filter((glob) => glob.includes('*'))]
  expect(folders).toHaveLength(1)
  expect(patterns).toHaveLength(5)
  for (const glob of patterns)
    expect(
      globSync(glob.replace(/^.*\/data\//, `${folder}/`))
        .map((path) => basename(path))
        .sort(),
    ).toEqual(files)
})
