import { spawn, spawnSync } from 'node:child_process'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { listSegments, stableName } from '../../src/journal/segments.ts'
import { ensureWritable } from '../../src/receiver/data-dir.ts'
import { blockWith, root } from '../support/docs.ts'
import { feedJournal } from '../support/journal.ts'
import { idsOf, startReader } from '../support/log-reader.ts'
import { temporaryFolder, until } from '../support/receiver.ts'
import { hasTerminals } from '../support/terminal.ts'

const page = 'docs/monitoring.md'
const events = 3_000
const all = Array.from({ length: events }, (_, id) => id)

/** Debian allows only one of rsyslog and syslog-ng to be installed: .ci/run unpacks rsyslog here. */
const rsyslog = ['/usr', '/opt/rsyslog/usr']
  .map((path) => ({ command: join(path, 'sbin/rsyslogd'), modules: join(path, 'lib/x86_64-linux-gnu/rsyslog') }))
  .find(({ command }) => spawnSync(command, ['-v']).status === 0)
const has = (command: string) => spawnSync(command, ['--version']).status === 0

/** The configuration on the page, for this folder. It writes to `out`. */
function configuration(part: string, folder: string) {
  const out = join(folder, 'out')
  const text = blockWith(page, part)
    .replaceAll('/srv/bitrix24-webhook-receiver', folder)
    .replaceAll('/var/log/bitrix24.ndjson', out)
  return { text, shipped: () => (existsSync(out) ? idsOf(readFileSync(out, 'utf8').split('\n').slice(0, -1)) : []) }
}

const sorted = (ids: readonly number[]) => [...ids].sort((a, b) => a - b)

async function segmentsOf(dataDir: string): Promise<number> {
  return (await listSegments(dataDir)).length
}

/** Which ids are missing, for the message of a failure. */
function describeMissing(ids: readonly number[]): string {
  const shipped = new Set(ids)
  const missing = all.filter((id) => !shipped.has(id))
  return `${missing.length} missing, from ${missing[0]} to ${missing.at(-1)}`
}

interface Shipping {
  readonly dataDir: string
  readonly start: () => ReturnType<typeof startReader>
  /** Whether it has listed the folder. */
  readonly hasStarted?: () => boolean
  readonly shipped: () => readonly number[]
}

/** Ships many segments, with a restart of the shipper. @returns the output of the shipper */
async function shipOverRestart({ dataDir, start, shipped, hasStarted = () => true }: Shipping): Promise<string> {
  const first = start()
  await until(() => `it started\n${first.said()}`, hasStarted)
  await feedJournal({ dataDir, events: events / 2, hasLong: true })
  await until(
    () => `it ships\n${first.said()}`,
    () => shipped().length > 0,
  )
  await first.stop()
  const second = start()
  await until(() => `it started again\n${second.said()}`, hasStarted)
  await feedJournal({ dataDir, events: events / 2, firstId: events / 2, hasLong: true })
  await until(
    () => `all of it is shipped: ${describeMissing(shipped())}\n${second.said()}`,
    () => shipped().length >= events,
    100_000,
  )
  await second.stop()
  return first.said() + second.said()
}

test.skipIf(!rsyslog)(
  'rsyslog ships every line once, however long, over many segments and its own restart',
  async () => {
    const folder = temporaryFolder('rsyslog')
    const dataDir = join(folder, 'data')
    await ensureWritable(dataDir)
    const { text, shipped } = configuration('imfile', folder)
    writeFileSync(join(folder, 'bitrix24.conf'), text)
    // As Debian's own does, which loads a module before it reads the files of /etc/rsyslog.d.
    const main = `module(load="imuxsock" SysSock.Use="off")
$WorkDirectory ${folder}
$IncludeConfig ${folder}/bitrix24.conf
`
    writeFileSync(join(folder, 'rsyslog.conf'), main)
    const start = () => {
      const { command = '', modules = '' } = rsyslog ?? {}
      const files = ['-f', join(folder, 'rsyslog.conf'), '-i', join(folder, 'pid')]
      return startReader(command, '-n', ...files, '-M', modules)
    }
    await shipOverRestart({ dataDir, start, shipped })
    expect(sorted(shipped())).toEqual(all)
    expect(await segmentsOf(dataDir)).toBeGreaterThan(10)
  },
)

test.skipIf(!has('syslog-ng'))(
  'syslog-ng ships every line once, however long, over many segments and its own restart',
  async () => {
    const folder = temporaryFolder('syslog-ng')
    const dataDir = join(folder, 'data')
    await ensureWritable(dataDir)
    const { text, shipped } = configuration('wildcard-file', folder)
    writeFileSync(join(folder, 'syslog-ng.conf'), `@version: 3.38\n${text}`)
    const start = () => {
      const files = { cfgfile: 'syslog-ng.conf', 'persist-file': 'persist', pidfile: 'pid', control: 'control' }
      const args = Object.entries(files).map(([option, name]) => `--${option}=${join(folder, name)}`)
      return startReader('syslog-ng', '--foreground', '--no-caps', ...args)
    }
    // It never reads a file that appears between the two lists of the folder that it makes when it starts, until it is restarted.
    const hasStarted = () => spawnSync('syslog-ng-ctl', ['stats', `--control=${join(folder, 'control')}`]).status === 0
    const said = await shipOverRestart({ dataDir, start, shipped, hasStarted })
    expect(sorted(shipped())).toEqual(all)
    expect(await segmentsOf(dataDir)).toBeGreaterThan(10)
    expect(said).not.toMatch(/message loss|deprecated|unknown/i)
  },
)

test.skipIf(!has('lnav'))('lnav reads the journal and the log by the format that is shipped', async () => {
  const folder = temporaryFolder('lnav')
  const dataDir = join(folder, 'data')
  await feedJournal({ dataDir, events: 600, hasLong: true })
  const run = (...args: readonly string[]) => {
    const { stdout, stderr } = spawnSync('lnav', args, { encoding: 'utf8', env: { ...process.env, HOME: folder } })
    return stdout + stderr
  }
  expect(run('-i', join(root, 'deploy/lnav/bitrix24.json'))).toContain('installed')
  const segments = (await listSegments(dataDir)).map(({ path }) => path)
  const query = ';SELECT event, count(DISTINCT id), max(log_level) FROM bitrix24_receiver GROUP BY event'
  expect(run('-n', '-c', query, '-c', ':write-csv-to -', ...segments)).toContain('E,600,info')
  const filtered = run('-n', '-c', ":filter-expr :object = 'deal:599'", ...segments)
  expect(filtered.trimEnd()).toMatch(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3} info +E deal:599$/)

  const log = join(folder, 'receiver.log')
  const line = { level: 50, time: '2026-11-23T08:11:20.123Z', component: 'receiver', err: { message: 'ENOSPC' } }
  writeFileSync(log, `${JSON.stringify({ ...line, msg: 'the journal cannot be written' })}\n`)
  expect(run('-n', log).trimEnd()).toBe('2026-11-23T08:11:20.123 error   the journal cannot be written')
})

test.skipIf(!hasTerminals || !has('less'))('less --follow-name goes on with each new segment', async () => {
  const folder = temporaryFolder('less')
  const dataDir = join(folder, 'data')
  await feedJournal({ dataDir, events: 200 })
  const less = spawn('script', ['--quiet', '--command', `less --follow-name +F ${stableName(dataDir)}`, '/dev/null'], {
    env: { ...process.env, TERM: 'xterm-256color', LESS: '', SHELL: '/bin/sh' },
  })
  onTestFinished(() => void less.kill('SIGKILL'))
  let shown = ''
  less.stdout.setEncoding('utf8').on('data', (text: string) => {
    shown += text
  })
  await until('less shows what there is', () => shown.includes('deal:199"'))
  // It opens the name and then asks which file has it: a segment that comes between the two would keep it on the one before.
  const lastShown = () => Math.max(...Array.from(shown.matchAll(/deal:(\d+)"/g), ([, id]) => Number(id)))
  await feedJournal({ dataDir, events: 600, firstId: 200, reader: { read: () => lastShown() + 1, lag: 0 } })
  expect(await segmentsOf(dataDir)).toBeGreaterThan(3)
})
