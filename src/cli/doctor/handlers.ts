import { fork } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { readSettings } from '../../config/config.ts'
import { underscoreRule } from '../../handler/loader.ts'
import { noDebugger } from '../../lib/child-process.ts'
import { type HandlerState, readHandlerStates } from '../commands/handlers.ts'
import { findDataDir, isFollowed } from '../data.ts'
import type { Check } from './check.ts'
import type { FromLoader } from './load-messages.ts'

const name = 'handlers'

/**
 * Milliseconds that loading may take in addition to HANDLER_LOAD_TIMEOUT, which the loading process itself enforces.
 */
const overtime = 15_000

/** Loads the handlers as a dispatcher does, in a separate process. */
export async function checkHandlers(): Promise<readonly Check[]> {
  const settings = readSettings(process.env, 'handlersDir', 'handlerLoadTimeout')
  const { handlersDir: dir, handlerLoadTimeout } = settings
  const patience = handlerLoadTimeout + overtime
  const child = fork(fileURLToPath(new URL('../../bin/load-handlers-process.ts', import.meta.url)), [], {
    execArgv: [noDebugger, '--disable-warning=ExperimentalWarning', '--disable-warning=MODULE_TYPELESS_PACKAGE_JSON'],
    stdio: ['ignore', 2, 2, 'ipc'],
  })
  const found: Check[] = []
  const leftOut: Check[] = []
  let loading = 'the first'
  let isWhole = false
  child.on('message', (message: FromLoader) => {
    timer.refresh()
    if (message.type === 'loading') loading = message.files.join(' or ') || loading
    if (message.type === 'end') isWhole = true
    if (message.type === 'loaded') found.push(...checksOf(message))
    if (message.type === 'broken')
      found.push({
        name,
        state: 'FAIL',
        text: `${message.at}: ${message.error}`,
        advice: `no handler runs until it is fixed; ${underscoreRule}`,
      })
    if (message.type === 'left out')
      leftOut.push({
        name,
        state: message.isDoubtful ? 'warn' : 'ok',
        text: `${message.file} is left out: ${message.reason}`,
        ...(message.isDoubtful && { advice: 'if it is no handler, begin its name with _' }),
      })
    if (message.type === 'late')
      found.push({
        name,
        state: 'FAIL',
        text: `${message.file}: it ${message.reason}`,
        advice: 'does an await at its top level never end? The others run without it, if it was ever loaded',
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
      advice: 'no handler runs until it is fixed',
    })
  found.push(...(await checkGone()))
  if (found.length > 0) return [...found, ...leftOut]
  return [
    ...leftOut,
    { name, state: 'warn', text: `there are none in ${dir}: events are journalled only`, advice: 'set HANDLERS_DIR' },
  ]
}

/** The check of the queue reports an unreadable file. */
async function checkGone(): Promise<readonly Check[]> {
  const states = await readStates().catch(() => [])
  return states
    .filter(({ state }) => state === 'gone')
    .map(({ name: handler, waiting }) => ({
      name,
      state: 'warn',
      text: `${handler}: its file is gone from HANDLERS_DIR; its events are kept for it, ${waiting} wait`,
      advice: `put it back, or run "b24-receiver handlers forget ${handler}"`,
    }))
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

async function readStates(): Promise<readonly HandlerState[]> {
  return isFollowed(findDataDir()) ? readHandlerStates(() => undefined) : []
}
