import { spawnSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { blockWith } from '../support/docs.ts'
import { temporaryFolder } from '../support/receiver.ts'

const rules = blockWith('docs/monitoring.md', 'groups:')
const names = [...rules.matchAll(/alert: (\w+)/g)].map(([, name = '']) => name)
const hasPromtool = spawnSync('promtool', ['--version']).error === undefined

/** The values of a scrape each minute from the start, in promtool's short form; `{}` gets the labels of the target. */
type Series = Readonly<Record<string, string>>

const well: Series = {
  'up{}': '1x60',
  'b24_journal_writable{}': '1x60',
  'b24_requests_rejected_total{code="journal_unavailable"}': '0x60',
  'b24_requests_rejected_total{code="invalid_application_token"}': '0x60',
  'b24_requests_rejected_total{code="internal"}': '0x60',
  'b24_last_event_timestamp_seconds{}': '0+60x60',
  'b24_dispatcher_up{}': '1x60',
  'b24_dispatcher_exits_total{}': '0x60',
  'b24_deliveries{state="dead"}': '0x60',
  'b24_oldest_delivery_age_seconds{}': '0x60',
  'b24_incoming_webhook_up{}': '1x60',
}

interface Outage {
  readonly what: string
  readonly says: Series
  /** The only alert that fires within the hour, if any does. */
  readonly alert?: string
  /** A part of its summary. */
  readonly through?: string
}

const outages: readonly Outage[] = [
  { what: 'all is well', says: {} },
  {
    what: 'the journal cannot be written, and posts are refused',
    says: {
      'b24_journal_writable{}': '1x9 0x20 1x30',
      'b24_requests_rejected_total{code="journal_unavailable"}': '0x10 1+1x18 19x30',
    },
    alert: 'B24JournalUnavailable',
  },
  {
    what: 'the journal cannot be written, and scrapes fail in between',
    says: { 'b24_journal_writable{}': '1x9 0x5 _x2 0x5 stale 0x5 1x30' },
    alert: 'B24JournalUnavailable',
  },
  {
    what: 'a webhook does not work, and scrapes fail in between',
    says: { 'b24_incoming_webhook_up{}': '1x10 0x10 _x2 0x5 stale 0x30' },
    alert: 'B24IncomingWebhookDown',
  },
  {
    what: 'the first refusal lasts a moment',
    says: { 'b24_requests_rejected_total{code="journal_unavailable"}': '0x10 1x48' },
    alert: 'B24JournalUnavailable',
  },
  { what: 'two exits of the dispatcher', says: { 'b24_dispatcher_exits_total{}': '0x10 1 2x48' } },
  {
    what: 'three exits of the dispatcher, which is up between them',
    says: { 'b24_dispatcher_exits_total{}': '0x10 1 2 3x48' },
    alert: 'B24DispatcherDown',
  },
  {
    what: 'a dispatcher that exits again and again and is never up, while deliveries grow old',
    says: {
      'b24_dispatcher_up{}': '1x10 0x48',
      'b24_dispatcher_exits_total{}': '0x10 1+1x48',
      'b24_oldest_delivery_age_seconds{}': '3500+60x60',
    },
    alert: 'B24DispatcherDown',
  },
  { what: 'a start of a minute', says: { 'b24_dispatcher_up{}': '0 1x59' } },
  {
    what: 'an incoming webhook without a name does not work, while deliveries grow old',
    says: { 'b24_incoming_webhook_up{}': '1x10 0x48', 'b24_oldest_delivery_age_seconds{}': '3500+60x60' },
    alert: 'B24IncomingWebhookDown',
    through: 'through B24_HOOK;',
  },
  {
    what: 'an incoming webhook with a name does not work',
    says: { 'b24_incoming_webhook_up{incoming_webhook="sales"}': '1x10 0x48' },
    alert: 'B24IncomingWebhookDown',
    through: 'through the incoming webhook sales;',
  },
  {
    what: 'handlers that are too slow',
    says: { 'b24_oldest_delivery_age_seconds{}': '3500+60x60' },
    alert: 'B24DeliveriesLate',
  },
  {
    what: 'a delivery is dead, and the number of pending ones is unknown',
    says: { 'b24_deliveries{state="dead"}': '0x10 1x48', 'b24_oldest_delivery_age_seconds{}': '_x60' },
    alert: 'B24DeadDeliveries',
  },
  { what: 'the receiver is gone', says: { 'up{}': '1x10 0x48' }, alert: 'B24ReceiverDown' },
]

const labels = 'instance="127.0.0.1:9090",job="bitrix24"'
const ofTarget = (series: string) => series.replace('{', `{${labels},`).replace(',}', '}')

/** A test for promtool (JSON is YAML). ALERTS and ALERTS_FOR_STATE are Prometheus' own series of what fires, and since when. */
function unitTest({ says, alert }: Outage) {
  const named = `{alertname="${alert}"}`
  return {
    interval: '1m',
    input_series: Object.entries({ ...well, ...says }).map(([name, values]) => ({ series: ofTarget(name), values })),
    promql_expr_test: [
      {
        expr: 'count by (alertname) (last_over_time(ALERTS{alertstate="firing"}[1h]))',
        eval_time: '1h',
        exp_samples: alert === undefined ? [] : [{ labels: named, value: 1 }],
      },
      // An alert that ended and began again has another start time.
      ...(alert === undefined
        ? []
        : [
            {
              expr: `sum by (alertname) (changes(ALERTS_FOR_STATE${named}[1h]))`,
              eval_time: '1h',
              exp_samples: [{ labels: named, value: 0 }],
            },
          ]),
    ],
  }
}

test.skipIf(!hasPromtool).each(outages)('one outage is one alert, from its beginning to its end: $what', (outage) => {
  const folder = temporaryFolder('rules')
  writeFileSync(join(folder, 'rules.yaml'), rules)
  const tests = { rule_files: ['rules.yaml'], evaluation_interval: '1m', tests: [unitTest(outage)] }
  writeFileSync(join(folder, 'test.yaml'), JSON.stringify(tests))
  const { stdout, stderr } = spawnSync('promtool', ['test', 'rules', join(folder, 'test.yaml')], { encoding: 'utf8' })
  expect(stdout + stderr).toMatch(/SUCCESS\s*$/)
})

test.skipIf(!hasPromtool).each(outages.filter(({ through }) => through !== undefined))(
  'the alert has no empty name in it: $what',
  ({ says, through = '' }) => {
    const folder = temporaryFolder('rules')
    writeFileSync(join(folder, 'rules.yaml'), rules)
    const input = Object.entries(says).map(([name, values]) => ({ series: ofTarget(name), values }))
    // The expectation is wrong on purpose, so that promtool prints the alert.
    const wrong = [{ eval_time: '20m', alertname: 'B24IncomingWebhookDown', exp_alerts: [] }]
    const tests = {
      rule_files: ['rules.yaml'],
      tests: [{ interval: '1m', input_series: input, alert_rule_test: wrong }],
    }
    writeFileSync(join(folder, 'test.yaml'), JSON.stringify(tests))
    const { stdout, stderr } = spawnSync('promtool', ['test', 'rules', join(folder, 'test.yaml')], { encoding: 'utf8' })
    expect(stdout + stderr).toContain(through)
  },
)

test.skipIf(!hasPromtool)('promtool finds nothing wrong with the rules', () => {
  const folder = temporaryFolder('rules')
  writeFileSync(join(folder, 'rules.yaml'), rules)
  const { stdout, stderr } = spawnSync('promtool', ['check', 'rules', join(folder, 'rules.yaml')], { encoding: 'utf8' })
  expect(stdout + stderr).toContain(`SUCCESS: ${names.length} rules found`)
})
