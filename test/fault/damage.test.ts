import { existsSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { expect, test } from 'vitest'
import { listSegments } from '../../src/journal/segments.ts'
import { envOf, jsonLines, runCli } from '../support/cli.ts'
import { createRandom } from '../support/random.ts'
import {
  dealBody,
  type Receiver,
  readRecorded,
  recorder,
  startReceiver,
  temporaryFolder,
  until,
} from '../support/receiver.ts'

/** `ROUNDS=200` is the long form; the suite runs a short one. */
const rounds = Number(process.env['ROUNDS'] ?? 2)

type Random = (limit: number) => number

function damageBytes(path: string, random: Random, size: number): void {
  const bytes = readFileSync(path)
  const from = Math.floor(random(bytes.length) / size) * size
  for (let at = from; at < Math.min(from + size, bytes.length); at++) bytes[at] = random(256)
  writeFileSync(path, bytes)
}

async function aSegment(dataDir: string, random: Random): Promise<string | undefined> {
  const filled = (await listSegments(dataDir)).filter(({ path }) => readFileSync(path).length > 0)
  return filled[random(filled.length)]?.path
}

/** What may be damaged, while nothing runs. */
const damages: Readonly<Record<string, (dataDir: string, random: Random) => unknown>> = {
  'a byte of dispatch.db': (dir, random) => damageBytes(join(dir, 'dispatch.db'), random, 1),
  'a page of dispatch.db': (dir, random) => damageBytes(join(dir, 'dispatch.db'), random, 4096),
  'the end of dispatch.db': (dir, random) =>
    truncateSync(join(dir, 'dispatch.db'), random(readFileSync(join(dir, 'dispatch.db')).length)),
  'a byte of dispatch.db-wal': (dir, random) => {
    const path = join(dir, 'dispatch.db-wal')
    if (existsSync(path) && readFileSync(path).length > 0) damageBytes(path, random, 1)
  },
  'the event of a row': (dir, random) => {
    const db = new DatabaseSync(join(dir, 'dispatch.db'))
    db.prepare("UPDATE delivery SET event = substr(event, 1, ?) || '?' WHERE event IS NOT NULL").run(random(200))
    db.close()
  },
  'dispatch.db itself': (dir) => {
    for (const suffix of ['', '-wal', '-shm']) rmSync(join(dir, `dispatch.db${suffix}`), { force: true })
  },
  'receiver.lock': (dir, random) => damageBytes(join(dir, 'receiver.lock'), random, 4096),
  'dispatcher.lock': (dir, random) => damageBytes(join(dir, 'dispatcher.lock'), random, 4096),
  'loaded.json': (dir, random) => damageBytes(join(dir, 'loaded.json'), random, 4),
  'a byte of a line': async (dir, random) => {
    const path = await aSegment(dir, random)
    if (path !== undefined) damageBytes(path, random, 1)
  },
  'a NUL in a segment': async (dir, random) => {
    const path = await aSegment(dir, random)
    if (path === undefined) return
    const bytes = readFileSync(path)
    bytes[random(bytes.length)] = 0
    writeFileSync(path, bytes)
  },
  'the newest segment': async (dir) => {
    const path = (await listSegments(dir)).at(-1)?.path
    if (path !== undefined) rmSync(path)
  },
}

interface Acknowledged {
  readonly object: string
  /** Its line, as it was on disk before anything was damaged. */
  line?: string
}

test('after any damage each acknowledged event is handled or named', async () => {
  const random = createRandom()
  const dataDir = temporaryFolder('data')
  const seen = join(temporaryFolder('seen'), 'seen')
  const handlers = { 'ONCRMDEALUPDATE.mjs': recorder(seen) }
  const acknowledged: Acknowledged[] = []
  /** Objects and ids that something has named. */
  const named = new Set<string>()
  const counts = new Map<string, number>()
  let receiver = await startReceiver({ dataDir, handlers })
  let id = 0

  const isTold = ({ object, line }: Acknowledged, handled: ReadonlySet<string | undefined>) =>
    handled.has(object) || named.has(object) || (line !== undefined && named.has(idOf(line)))
  const handledNow = () => new Set(readRecorded(seen).map((event) => event.object))

  /** Until nothing is in the way of the handlers: what the product's own messages tell is done. */
  async function followAdvice(): Promise<void> {
    await until(
      () => `the dispatcher follows\n${receiver.output()}`,
      async () => {
        const { dispatcher } = (await receiver.readyz()) as { dispatcher?: string }
        if (dispatcher === undefined) return true
        if (dispatcher.includes('b24-receiver repair')) await repair()
        else if (dispatcher.includes('DISPATCH_FROM')) await restart({ DISPATCH_FROM: 'oldest' })
        return false
      },
    )
  }

  async function repair(): Promise<void> {
    const { code, stdout, stderr } = await runCli({ env: envOf(receiver) }, 'repair', '--yes', '--json')
    if (![0, 1].includes(code ?? -1)) throw new Error(`repair ended with ${code}: ${stderr}`)
    for (const one of jsonLines(stdout)) if (one['fate'] === 'unknown') named.add(String(one['event']))
  }

  async function restart(env: Record<string, string> = {}): Promise<void> {
    receiver.killGroup('SIGKILL')
    await receiver.exited
    receiver = await startReceiver({ dataDir, handlers, env })
  }

  /** What is dead, and which lines verify or a cut file names. */
  async function readNamed(running: Receiver): Promise<void> {
    const dead = await runCli({ env: envOf(running) }, 'dead', 'list', '--json')
    for (const one of jsonLines(dead.stdout)) named.add(String(one['id']))
    const verdict = await runCli({ env: envOf(running) }, 'verify', '--json')
    for (const { path, offset, what } of jsonLines(verdict.stdout))
      if (typeof what === 'string' && typeof path === 'string' && typeof offset === 'number')
        for (const { object, line } of acknowledged)
          if (line !== undefined && isLineAt(path, offset, line)) named.add(object)
    for (const file of readdirSync(join(dataDir, 'journal')).filter((name) => name.includes('.cut'))) {
      const text = readFileSync(join(dataDir, 'journal', file), 'utf8')
      for (const { object, line } of acknowledged)
        if (line !== undefined && text.includes(line.slice(0, 60))) named.add(object)
    }
  }

  for (let round = 0; round < rounds; round++) {
    for (let count = 3 + random(10); count > 0; count--) {
      const answer = await receiver.post(dealBody(++id))
      if (answer.status === 200) acknowledged.push({ object: `deal:${id}` })
    }
    if (random(2) === 0) await until('some are handled', () => handledNow().size > acknowledged.length / 2)
    if (random(2) === 0) await receiver.stop()
    receiver.killGroup('SIGKILL')
    await receiver.exited
    await noteLines(dataDir, acknowledged)
    const names = Object.keys(damages)
    const name = names[random(names.length)] ?? ''
    await damages[name]?.(dataDir, random)
    counts.set(name, (counts.get(name) ?? 0) + 1)

    receiver = await startReceiver({ dataDir, handlers })
    await followAdvice()
    const silent = () => acknowledged.filter((one) => !isTold(one, handledNow())).map(({ object }) => object)
    await until(
      () => `round ${round}, ${name}: silent are ${silent().join(', ')}\n${receiver.output()}`,
      async () => {
        if (silent().length === 0) return true
        await followAdvice()
        await readNamed(receiver)
        return silent().length === 0
      },
    )
  }
  await receiver.stop()
  process.stdout.write(
    `damage: ${acknowledged.length} acknowledged over ${rounds} rounds, ${handledNow().size} handled, ` +
      `${acknowledged.filter(({ object }) => !handledNow().has(object)).length} only named, 0 silent; ` +
      `${[...counts].map(([name, count]) => `${name} ${count}`).join(', ')}\n`,
  )
  expect(acknowledged.length).toBeGreaterThan(2 * rounds)
})

/** The journal before it is damaged says which line is whose. */
async function noteLines(dataDir: string, acknowledged: readonly Acknowledged[]): Promise<void> {
  const missing = new Map(acknowledged.filter(({ line }) => line === undefined).map((one) => [one.object, one]))
  for (const { path } of await listSegments(dataDir))
    for (const line of readFileSync(path, 'utf8').split('\n')) {
      const one = missing.get(/"object":"(deal:\d+)"/.exec(line)?.[1] ?? '')
      if (one) one.line ??= line
    }
}

function idOf(line: string): string {
  return /"id":"([^"]+)"/.exec(line)?.[1] ?? ''
}

/** A line that is damaged is the same one for most of its bytes. */
function isLineAt(path: string, offset: number, line: string): boolean {
  const found = readFileSync(path).subarray(offset, offset + line.length)
  const expected = Buffer.from(line)
  return expected.filter((byte, at) => byte !== found[at]).length <= 4
}
