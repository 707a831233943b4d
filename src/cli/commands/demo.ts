import { fork } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { withoutSettings } from '../../config/names.ts'
import { stableName } from '../../journal/segments.ts'
import { type Simulation, simulate } from '../../simulator/simulate.ts'
import { defineCommand } from '../command.ts'
import { freePort } from '../free-port.ts'

const portal = {
  domain: 'example.bitrix24.com',
  memberId: 'a223c6b3710f85df22e9377d6c4f7553',
  token: 'demo0token0demo0token0demo0token',
}

const posts: readonly (readonly [string, Simulation])[] = [
  ['a deal is changed', { event: 'ONCRMDEALUPDATE', id: 662, portal }],
  ['a lead comes in', { event: 'ONCRMLEADADD', id: 365, portal }],
  ['a task is changed', { event: 'ONTASKUPDATE', id: 17, portal }],
  ['somebody guesses the token', { event: 'ONCRMDEALUPDATE', id: 662, portal, mode: 'wrong-token' }],
]

export const demo = defineCommand({
  name: 'demo',
  usage: '',
  summary: 'a receiver in a temporary folder, with a few events posted at it',
  options: {},
  examples: ['demo'],
  args: 0,
  run: showDemo,
})

/** Shows the data flow: a receiver in a temporary folder, a few posts, its log, its journal. */
async function showDemo(): Promise<undefined> {
  const folder = await mkdtemp(join(tmpdir(), 'b24-receiver-demo-'))
  const port = await freePort()
  const url = `http://127.0.0.1:${port}/bitrix24`
  const say = (text: string) => process.stdout.write(`\n${text}\n`)
  const { createPretty, onTerminal } = await import('../../lib/pretty.ts')
  const pretty = createPretty({ ...onTerminal, colorize: process.stdout.isTTY })

  say(`Starting a receiver that keeps its data in ${folder}`)
  const receiver = fork(fileURLToPath(new URL('../../bin/receiver.ts', import.meta.url)), {
    env: {
      // Existing settings, for example from .env, may belong to a real receiver, its portal and its database.
      ...withoutSettings(process.env),
      B24_APPLICATION_TOKEN: `demo=${portal.token}`,
      HOST: '127.0.0.1',
      PORT: String(port),
      ADMIN_PORT: '0',
      DATA_DIR: folder,
      HANDLERS_DIR: fileURLToPath(new URL('../../../examples/handlers', import.meta.url)),
    },
    stdio: ['ignore', 'pipe', 'inherit', 'ipc'],
  })
  const seen = new Set<string>()
  if (receiver.stdout === null) throw new Error('the receiver has no output')
  const lines = createInterface({ input: receiver.stdout })
  lines.on('line', (line) => {
    process.stdout.write(pretty(line))
    for (const state of ['ready for events', 'handled']) if (line.includes(`"msg":"${state}`)) seen.add(state)
    lines.emit('state')
  })
  const until = async (state: string) => {
    while (!seen.has(state))
      await Promise.race([
        once(lines, 'state'),
        once(receiver, 'exit').then(() => Promise.reject(new Error('the receiver ended'))),
      ])
  }

  try {
    await until('ready for events')
    for (const [what, simulation] of posts) {
      say(`POST ${url}: ${what}`)
      for (const { status, body } of await simulate(url, simulation)) say(`${status} ${body}`)
    }
    await until('handled')
    say(`The journal, ${stableName(folder)}:`)
    process.stdout.write(await readFile(stableName(folder), 'utf8'))
    say('The receiver is stopped and its folder removed. Yours: B24_APPLICATION_TOKEN=… npm start')
  } finally {
    receiver.kill('SIGTERM')
    if (receiver.exitCode === null) await once(receiver, 'exit')
    await rm(folder, { recursive: true, force: true })
  }
  return undefined
}
