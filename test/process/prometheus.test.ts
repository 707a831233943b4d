import { execFileSync, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { deals, dispatcherOf } from '../support/dispatcher.ts'
import { blockWith } from '../support/docs.ts'
import { startPortal } from '../support/portal.ts'
import { dealBody, freePort, quickProbes, startReceiver, TOKEN, temporaryFolder, until } from '../support/receiver.ts'

const hasPrometheus = spawnSync('prometheus', ['--version']).error === undefined
const page = 'docs/monitoring.md'

interface Fired {
  readonly labels: Readonly<Record<string, string>>
  readonly annotations: Readonly<Record<string, string>>
  readonly startsAt: string
  readonly endsAt: string
}

/** What an Alertmanager gets; Prometheus sends what fires again and again, and a while after it has ended. */
async function startAlertmanager() {
  const posted: Fired[] = []
  const server = createServer((request, response) => {
    let body = ''
    request.setEncoding('utf8').on('data', (part: string) => {
      body += part
    })
    request.on('end', () => {
      posted.push(...JSON.parse(body))
      response.end()
    })
  })
  const port = await freePort()
  server.listen(port, '127.0.0.1')
  await once(server, 'listening')
  onTestFinished(() => {
    server.close()
    server.closeAllConnections()
  })
  return {
    target: `127.0.0.1:${port}`,
    /** Each outage of which it heard, once: the same labels with another beginning are another alert. */
    outages: () => [...new Map(posted.map((one) => [JSON.stringify([one.labels, one.startsAt]), one])).values()],
  }
}

/** Seconds that stand for a minute of the rules. */
const minute = 3

/** Prometheus with the page's configuration and rules. */
async function startPrometheus(adminPort: number, alertmanager: string) {
  const folder = temporaryFolder('prometheus')
  const rules = blockWith(page, 'groups:').replace(/(?<=\[|for: )(\d+)m\b/g, (_, count) => `${Number(count) * minute}s`)
  const scrape = blockWith(page, 'job_name: bitrix24\n    static_configs:\n      - targets')
  writeFileSync(join(folder, 'rules.yaml'), rules)
  writeFileSync(
    join(folder, 'prometheus.yaml'),
    `global: { scrape_interval: 2s, evaluation_interval: 500ms }
rule_files: [rules.yaml]
alerting: { alertmanagers: [{ static_configs: [{ targets: ['${alertmanager}'] }] }] }
${scrape.replace('127.0.0.1:9090', `127.0.0.1:${adminPort}`)}`,
  )
  const port = await freePort()
  const prometheus = spawn('prometheus', [
    `--config.file=${folder}/prometheus.yaml`,
    `--storage.tsdb.path=${folder}/data`,
    `--web.listen-address=127.0.0.1:${port}`,
  ])
  const ended = once(prometheus, 'close')
  onTestFinished(async () => {
    prometheus.kill('SIGKILL')
    await ended
  })
  let said = ''
  prometheus.stderr.setEncoding('utf8').on('data', (text: string) => {
    said += text
  })
  /** The values of an instant query. */
  const query = async (expression: string): Promise<number[]> => {
    const url = `http://127.0.0.1:${port}/api/v1/query?query=${encodeURIComponent(expression)}`
    // It says 503, as plain text, until it has started.
    const answer: unknown = await fetch(url)
      .then((response) => response.json())
      .catch(() => undefined)
    const result: unknown = Reflect.get(Object(Reflect.get(Object(answer), 'data')), 'result')
    return Array.isArray(result) ? result.map((one) => Number(Reflect.get(Object(one), 'value')?.[1])) : []
  }
  await until(
    () => `it scrapes\n${said}`,
    async () => (await query('up{job="bitrix24"}'))[0] === 1,
  )
  return query
}

test.skipIf(!hasPrometheus)(
  'Prometheus hears of an outage of journal, webhook and dispatcher, of each once',
  async () => {
    const portal = await startPortal({ limit: { rate: 1000, burst: 1000 } })
    portal.records.add(2, { title: 'A deal' }, 7, 1)
    const handler = `export default (event, { bitrix24 }) => bitrix24.call('crm.item.get', { entityTypeId: 2, id: 1 })`
    const receiver = await startReceiver({
      args: quickProbes,
      handlers: { [deals]: handler },
      env: {
        ...portal.env,
        B24_APPLICATION_TOKEN: TOKEN,
        B24_HOOK: portal.incomingWebhook(),
      },
    })
    portal.subscribe({ url: receiver.url, token: TOKEN })
    await until('the dispatcher is up', async () => /^b24_dispatcher_up 1$/m.test(await receiver.scrape()))
    const { target, outages } = await startAlertmanager()
    const query = await startPrometheus(receiver.adminPort, target)
    const firing = (name: string) => query(`ALERTS{alertname="${name}",alertstate="firing"}`)
    const isFiring = async (name: string) => (await firing(name)).length > 0
    const over = (name: string) => until(`${name} is over`, async () => !(await isFiring(name)))
    const names = () => outages().map(({ labels }) => labels['alertname'])
    const heardOf = (name: string) =>
      until(
        () => `Alertmanager hears of ${name}, not only of ${names().join()}`,
        () => names().includes(name),
      )
    // Of the first refusal a counter must have been seen at 0.
    await until('a counter was seen twice', async () => {
      const [count = 0] = await query('count_over_time(b24_requests_rejected_total{code="journal_unavailable"}[1m])')
      return count > 1
    })
    expect(names()).toEqual([])

    const limit = (size: string) =>
      execFileSync('prlimit', ['--pid', String(receiver.child.pid), `--fsize=${size}:unlimited`])
    limit('0')
    expect((await receiver.post(dealBody(1))).status).toBe(503)
    await heardOf('B24JournalUnavailable')
    limit('unlimited')
    await over('B24JournalUnavailable')

    portal.behaviour.dead = 'expired_token'
    portal.edit(2, 1, { title: 'Another' })
    await heardOf('B24IncomingWebhookDown')
    expect(outages().at(-1)?.annotations['summary']).toContain('through B24_HOOK;')
    portal.behaviour.dead = undefined
    await over('B24IncomingWebhookDown')

    // It ends again and again, and each time another is started.
    const path = join(receiver.handlersDir, deals)
    writeFileSync(path, 'export default 1')
    process.kill(await dispatcherOf(receiver), 'SIGKILL')
    await heardOf('B24DispatcherDown')
    writeFileSync(path, handler)
    await over('B24DispatcherDown')
    // A machine that has no time for a scrape is an outage of its own.
    const told = names().filter((name) => name !== 'B24ReceiverDown')
    expect(told).toEqual(['B24JournalUnavailable', 'B24IncomingWebhookDown', 'B24DispatcherDown'])
  },
)
