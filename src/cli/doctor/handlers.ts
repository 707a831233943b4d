import { readSettings } from '../../config/config.ts'
import { underscoreRule } from '../../handler/handler-files.ts'
import { startChild } from '../../lib/child-process.ts'
import { type HandlerState, readHandlerStates } from '../commands/handlers.ts'
import { findDataDir, isFollowed } from '../data.ts'
import type { LoadedMessage } from '../try/messages.ts'
import { type Check, fail, ok, warn } from './check.ts'

/** The messages of the process that loads the handlers for `doctor`. */
export type FromLoader =
  | { readonly type: 'loading'; readonly files: readonly string[] }
  | LoadedMessage
  | { readonly type: 'broken'; readonly at: string; readonly error: string }
  | { readonly type: 'left out'; readonly file: string; readonly reason: string; readonly isDoubtful: boolean }
  | { readonly type: 'late'; readonly file: string; readonly reason: string }
  | { readonly type: 'end' }

const name = 'handlers'

/** Milliseconds in addition to HANDLER_LOAD_TIMEOUT, which the loading process itself enforces. */
const extraLoadMs = 15_000

/** Loads the handlers as a dispatcher does, in a separate process. */
export async function checkHandlers(): Promise<readonly Check[]> {
  const { handlersDir: dir, handlerLoadTimeout } = readSettings(process.env, 'handlersDir', 'handlerLoadTimeout')
  const found: Check[] = []
  const leftOut: Check[] = []
  const failure = await load(handlerLoadTimeout + extraLoadMs, (message) => {
    if (message.type === 'left out') leftOut.push(checkLeftOut(message))
    else found.push(...checksOf(message))
  })
  if (failure !== undefined) found.push(fail(name, failure, 'no handler runs until it is fixed'))
  found.push(...(await checkGone()))
  if (found.length > 0) return [...found, ...leftOut]
  return [...leftOut, warn(name, `there are none in ${dir}: events are journalled only`, 'set HANDLERS_DIR')]
}

/** Returns which file blocks or ends the process that loads it; `undefined` if none does. */
async function load(timeoutMs: number, onMessage: (message: FromLoader) => void): Promise<string | undefined> {
  const script = new URL('../../bin/load-handlers-process.ts', import.meta.url)
  const child = startChild<FromLoader, never>({ script, isStdoutReserved: true })
  let loading = 'the first'
  let failure: string | undefined = 'ends the process that loads it'
  const kill = (why: string) => {
    failure = why
    child.kill()
  }
  const timer = setTimeout(() => kill(`was not loaded within ${timeoutMs / 1000} s`), timeoutMs)
  child.channel.events.once('garbage', () => {
    kill('writes to descriptor 3, the channel of its process')
    child.channel.close()
  })
  child.channel.events.on('message', (message) => {
    timer.refresh()
    if (message.type === 'loading') loading = message.files.join(' or ') || loading
    if (message.type === 'end') failure = undefined
    onMessage(message)
  })
  const { error } = await child.closed
  clearTimeout(timer)
  if (error) throw error
  return failure && `${loading} ${failure}`
}

function checksOf(message: FromLoader): Check[] {
  if (message.type === 'broken')
    return [fail(name, `${message.at}: ${message.error}`, `no handler runs until it is fixed; ${underscoreRule}`)]
  if (message.type === 'late') {
    const advice = 'does an await at its top level never end? The others run without it, if it was ever loaded'
    return [fail(name, `${message.file}: it ${message.reason}`, advice)]
  }
  if (message.type !== 'loaded') return []
  const { name: handler, events, unknown } = message
  const spelling = unknown.map(({ event, nearest }) => {
    const advice = nearest === undefined ? 'is it your own, or new?' : `is it ${nearest}?`
    return warn(name, `${handler}: the documentation does not know ${event}`, advice)
  })
  return [ok(name, `${handler} loads, for ${events.join(', ')}`), ...spelling]
}

function checkLeftOut({ file, reason, isDoubtful }: Extract<FromLoader, { type: 'left out' }>): Check {
  const text = `${file} is left out: ${reason}`
  return isDoubtful ? warn(name, text, 'if it is no handler, begin its name with _') : ok(name, text)
}

/** The check of the queue reports an unreadable file. */
async function checkGone(): Promise<readonly Check[]> {
  const states = await readStates().catch(() => [])
  return states
    .filter(({ state }) => state === 'gone')
    .map(({ name: handler, waiting }) => {
      const text = `${handler}: its file is gone from HANDLERS_DIR; its events are kept for it, ${waiting} wait`
      return warn(name, text, `put it back, or run "b24-receiver handlers forget ${handler}"`)
    })
}

async function readStates(): Promise<readonly HandlerState[]> {
  return isFollowed(findDataDir()) ? readHandlerStates(() => undefined) : []
}
