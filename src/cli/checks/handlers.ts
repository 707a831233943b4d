import { fork } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { readSettings } from '../../config.ts'
import { noDebugger } from '../../start-child.ts'
import type { Check } from './check.ts'
import type { FromLoader } from './load-handlers-process.ts'

const name = 'handlers'

/** Milliseconds that loading all of them may take. */
const patience = 15_000

/** Loads them as a dispatcher does, in a process of their own. */
export async function checkHandlers(): Promise<readonly Check[]> {
  const { HANDLERS_DIR: dir } = readSettings(process.env, 'HANDLERS_DIR')
  const child = fork(fileURLToPath(new URL('load-handlers-process.ts', import.meta.url)), [], {
    execArgv: [noDebugger, '--disable-warning=ExperimentalWarning', '--disable-warning=MODULE_TYPELESS_PACKAGE_JSON'],
    stdio: ['ignore', 2, 2, 'ipc'],
  })
  const found: Check[] = []
  let loading = 'the first'
  let isWhole = false
  child.on('message', (message: FromLoader) => {
    if (message.type === 'loading') loading = message.file
    if (message.type === 'end') isWhole = true
    if (message.type === 'loaded') found.push(...checksOf(message))
    if (message.type === 'broken')
      found.push({
        name,
        state: 'FAIL',
        text: `${message.at}: ${message.error}`,
        advice: 'no handler runs until it is mended',
      })
  })
  let isLate = false
  const timer = setTimeout(() => {
    isLate = true
    child.kill('SIGKILL')
  }, patience)
  await Promise.all([once(child, 'exit'), once(child, 'disconnect')])
  clearTimeout(timer)
  if (!isWhole)
    found.push({
      name,
      state: 'FAIL',
      text: `${loading} ${isLate ? `was not loaded within ${patience / 1000} s` : 'ends the process that loads it'}`,
      advice: 'no handler runs until it is mended',
    })
  if (found.length > 0) return found
  return [
    { name, state: 'warn', text: `there are none in ${dir}: events are journalled only`, advice: 'set HANDLERS_DIR' },
  ]
}

function checksOf({ name: handler, events, unknown }: Extract<FromLoader, { type: 'loaded' }>): Check[] {
  const spelling = unknown.map(({ event, nearest }): Check => {
    const text = `${handler}: the documentation does not know ${event}`
    return {
      name,
      state: 'warn',
      text,
      advice: nearest === undefined ? 'is it your own, or new?' : `is it ${nearest}?`,
    }
  })
  return [{ name, state: 'ok', text: `${handler} loads, for ${events.join(', ')}` }, ...spelling]
}
