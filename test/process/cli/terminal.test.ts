import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, test } from 'vitest'
import { cliScript, envOf, runCli } from '../../support/cli.ts'
import { writeJournal } from '../../support/journal.ts'
import { dealBody, freePort, recorder, startReceiver, TOKEN, temporaryFolder, until } from '../../support/receiver.ts'
import { atTerminal, hasTerminals, screen } from '../../support/terminal.ts'

const ctrlC = '\u0003'
const slow = fileURLToPath(new URL('../../support/preload/slow.ts', import.meta.url))
const main = fileURLToPath(new URL('../../../src/bin/receiver.ts', import.meta.url))

describe.skipIf(!hasTerminals)('at a terminal', () => {
  test('replay asks first, and takes only a yes for one', async () => {
    const seen = join(temporaryFolder('seen'), 'seen')
    const receiver = await startReceiver({ handlers: { 'ONCRMDEALUPDATE.mjs': recorder(seen) } })
    await receiver.post(dealBody(1))
    await until('handled', () => receiver.logged('handled').length === 1)
    for (const [answer, code, runs] of [
      ['', 1, 1],
      ['n', 1, 1],
      ['yes', 0, 2],
    ] as const) {
      const asked = atTerminal(envOf(receiver), cliScript, 'replay', '--object', 'deal:1')
      await until('the question', () => asked.said.stdout.includes('Go on? [y/N] '))
      asked.type(`${answer}\r`)
      expect((await asked.result).code).toBe(code)
      await until('its runs', () => receiver.logged('handled').length === runs)
    }
  })

  test('long work shows how far it is, and when it is over nothing of that is left', async () => {
    const receiver = await startReceiver()
    const refused = join(temporaryFolder('refused'), 'stderr.log')
    for (let id = 1; id <= 3; id++) await receiver.post(dealBody(id))
    writeFileSync(refused, (await receiver.journal()).map((event) => `${JSON.stringify(event)}\n`).join(''))
    for (const [progress, last, ...args] of [
      [/5 of 5 posts/, /^5 posts in /, 'send', 'ONCRMDEALUPDATE', '--count', '5'],
      [/looking at: fsync/, / name it: --url /, 'doctor'],
      [/\d events found/, /^3 events found, 3 of them in the journal/, 'import', refused, '--dry-run'],
    ] as const) {
      const { result } = atTerminal(envOf(receiver), cliScript, ...args)
      const { stdout } = await result
      expect(stdout).toMatch(progress)
      const lines = screen(stdout)
      expect(lines.at(-1)).toMatch(last)
      expect(lines.filter((line) => progress.test(line) && !last.test(line))).toEqual([])
      const piped = await runCli({ env: envOf(receiver) }, ...args)
      expect(piped.stdout + piped.stderr).not.toContain('\u001b')
    }
  })

  test('reading a large journal says how much of it was read', async () => {
    const event = { data: { FIELDS: { TITLE: 'x'.repeat(1000) } } }
    const segment = Array.from({ length: 500 }, () => event)
    const dataDir = await writeJournal(segment, segment, segment, segment)
    const env = { DATA_DIR: dataDir, NODE_OPTIONS: `--import=${slow}` }
    const { result } = atTerminal(env, cliScript, 'verify')
    const { stdout, code } = await result
    expect(stdout).toMatch(/reading the journal: 50 % of 2 MB.*reading the journal: 100 % of 2 MB/s)
    expect(screen(stdout).slice(-2)).toEqual([expect.stringMatching(/^4 segments, 2000 lines/), 'no trouble'])
    expect(code).toBe(0)
  })

  test('tail has colours, and Ctrl-C ends it well', async () => {
    const receiver = await startReceiver()
    await receiver.post(dealBody(7))
    const tail = atTerminal(envOf(receiver), cliScript, 'tail', '-f')
    await until('the event', () => tail.said.stdout.includes('deal:7'))
    expect(tail.said.stdout).toContain('\u001b[3')
    tail.type(ctrlC)
    expect((await tail.result).code).toBe(0)
  })
})

describe.skipIf(!hasTerminals)('a receiver at a terminal', () => {
  async function start() {
    const port = await freePort()
    const env = {
      B24_APPLICATION_TOKEN: TOKEN,
      DATA_DIR: temporaryFolder('data'),
      HANDLERS_DIR: temporaryFolder('handlers'),
      HOST: '127.0.0.1',
      PORT: String(port),
      ADMIN_PORT: String(await freePort()),
    }
    const receiver = atTerminal(env, main)
    await until('ready', () => receiver.said.stdout.includes('ready for events'))
    return { ...receiver, env, lines: () => screen(receiver.said.stdout) }
  }

  test('logs for people, reloads when asked to, and stops at Ctrl-C', async () => {
    const { env, type, result, said, lines } = await start()
    expect(lines().find((line) => line.includes('ready for events'))).toMatch(
      /^\[\d\d:\d\d:\d\d\.\d{3}\] INFO: ready for/,
    )
    expect(said.stdout).not.toContain('{"level"')
    expect((await runCli({ env }, 'reload')).stdout).toBe('loaded: no handler is there\n')
    type(ctrlC)
    expect((await result).code).toBe(0)
    expect(lines().at(-1)).toMatch(/ INFO: stopped /)
  })

  test('is stopped by the hang-up of its terminal, which reloads it elsewhere', async () => {
    const { env, child } = await start()
    const { stdout } = await runCli({ env }, 'status', '--json')
    expect(JSON.parse(stdout)).toMatchObject({ receiver: { pid: expect.any(Number) } })
    child.kill('SIGKILL')
    await until('it is gone', async () => {
      const status = await runCli({ env }, 'status')
      return status.stdout.includes('does not run')
    })
  })
})
