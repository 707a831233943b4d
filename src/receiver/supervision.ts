import type { FromDispatcher } from '../dispatch/messages.ts'
import { createStatus, type DispatcherStatus, updateStatus } from '../dispatch/status.ts'
import type { Exit } from '../lib/child-process.ts'

interface Dispatcher {
  readonly id: number
  readonly isLoaded: boolean
  /** It is killed because its event loop was blocked. */
  readonly isStalled: boolean
  /** It was killed on purpose: the handlers are not to blame that it did not load them. */
  readonly isUnwanted: boolean
}

/** What is known about the dispatchers. At most two run: one that counts, and one that replaces it or that it replaces. */
export interface Supervision {
  readonly status: DispatcherStatus
  readonly ends: number
  readonly running: readonly Dispatcher[]
  /** The id of the dispatcher that counts. It may have ended, and another may be due. */
  readonly current: number
  readonly loading: number | undefined
  /** The dispatcher for whose end another replacement waits. */
  readonly ending: { readonly id: number; readonly wasReplaced: boolean } | undefined
  readonly isReloadDue: boolean
  readonly isStopping: boolean
  readonly restartDelayMs: number
  /** How the last dispatcher ended by itself. The next one charges the runs of the last one with it. */
  readonly lastEnd: string | undefined
  /** The last dispatcher ended by itself before it had loaded the handlers. */
  readonly hasEndedLoading: boolean
  readonly lastId: number
}

export type SupervisionEvent =
  /** Another dispatcher is due: at the start, and some time after one has ended. */
  | { readonly type: 'start_due' }
  | { readonly type: 'message'; readonly id: number; readonly message: FromDispatcher }
  | { readonly type: 'stalled'; readonly id: number }
  | { readonly type: 'exited'; readonly id: number; readonly exit: Exit }
  | { readonly type: 'reload' }
  | { readonly type: 'stop'; readonly graceMs: number }

export type SupervisionAction =
  | { readonly type: 'start'; readonly id: number; readonly args: readonly string[] }
  /** End it, and let its runs go on for so long. */
  | { readonly type: 'end'; readonly id: number; readonly graceMs: number }
  | { readonly type: 'kill'; readonly id: number }
  /** `start_due` comes after `delayMs`; without it, no more. */
  | { readonly type: 'schedule_start'; readonly delayMs?: number }
  | { readonly type: 'log'; readonly level: 'info' | 'error'; readonly fields: object; readonly text: string }

const starting = 'the dispatcher is starting'

const minRestartDelayMs = 500
const maxRestartDelayMs = 30_000

/** Milliseconds for a dispatcher that cannot load its handlers to flush the log lines that say why. */
const flushMs = 1_000

export const initialSupervision: Supervision = {
  status: createStatus(starting),
  ends: 0,
  running: [],
  current: 0,
  loading: undefined,
  ending: undefined,
  isReloadDue: false,
  isStopping: false,
  restartDelayMs: minRestartDelayMs,
  lastEnd: undefined,
  hasEndedLoading: false,
  lastId: 0,
}

/**
 * Decides what happens to the dispatchers. It is pure: `supervisor.ts` brings the events and carries out the actions.
 *
 * @param graceMs milliseconds for which running handlers may go on when their dispatcher is replaced
 */
export function supervise(
  before: Supervision,
  event: SupervisionEvent,
  graceMs: number,
): { readonly after: Supervision; readonly actions: readonly SupervisionAction[] } {
  const after: { -readonly [Key in keyof Supervision]: Supervision[Key] } = { ...before }
  const actions: SupervisionAction[] = []
  const log = (level: 'info' | 'error', text: string, fields: object = {}) =>
    actions.push({ type: 'log', level, text, fields })
  const isRunning = (id: number) => after.running.some((one) => one.id === id)
  const mark = (id: number, marks: Partial<Dispatcher>) => {
    after.running = after.running.map((one) => (one.id === id ? { ...one, ...marks } : one))
  }

  function start(isReplacing = false): number {
    const id = ++after.lastId
    const { hasEndedLoading, lastEnd } = after
    after.running = [...after.running, { id, isLoaded: false, isStalled: false, isUnwanted: false }]
    after.hasEndedLoading = false
    const args = [
      ...(isReplacing ? ['--replacing'] : []),
      ...(hasEndedLoading ? ['--after-end'] : []),
      ...(lastEnd === undefined ? [] : [`--last-end=${lastEnd}`]),
    ]
    actions.push({ type: 'start', id, args })
    return id
  }

  function startReplacement(): void {
    after.isReloadDue = false
    // A dispatcher that works is replaced only by one with all handlers. A failing one may be replaced by one that lacks a handler.
    after.loading = start(after.status.trouble === undefined && isRunning(after.current))
  }

  function restart(): void {
    after.ends++
    const { trouble } = after.status
    const died = 'the dispatcher died and is started again: see the log'
    // The dispatcher may end at each start before it can report why.
    after.status = {
      ...after.status,
      incomingWebhooks: {},
      trouble: trouble === undefined || trouble === starting ? died : trouble,
    }
    log('info', 'starting the dispatcher again', { in_ms: after.restartDelayMs })
    actions.push({ type: 'schedule_start', delayMs: after.restartDelayMs })
    after.restartDelayMs = Math.min(after.restartDelayMs * 2, maxRestartDelayMs)
  }

  function replaceBy(id: number): void {
    const old = after.current
    after.loading = undefined
    after.current = id
    after.status = { ...after.status, incomingWebhooks: {} }
    actions.push({ type: 'schedule_start' })
    if (isRunning(old)) endForNext(old, graceMs, true)
    else log('info', 'handlers were loaded again')
  }

  function giveUpReplacement(id: number): void {
    after.loading = undefined
    log('error', 'the handlers could not be loaded; a dispatcher that runs goes on with those it has')
    if (isRunning(id)) endForNext(id, flushMs)
  }

  function endForNext(id: number, graceMs: number, wasReplaced = false): void {
    after.ending = { id, wasReplaced }
    actions.push({ type: 'end', id, graceMs })
  }

  function take(id: number, message: FromDispatcher): void {
    const isCurrent = id === after.current
    after.status = updateStatus(after.status, message, isCurrent)
    if (message.type === 'loaded') mark(id, { isLoaded: true })
    if (message.type === 'worked' && isCurrent) after.restartDelayMs = minRestartDelayMs
    if (id !== after.loading || after.isStopping) return
    if (message.type === 'loaded') replaceBy(id)
    if (message.type === 'trouble') giveUpReplacement(id)
  }

  function noteExit(id: number, { code, signal, error }: Exit): void {
    const isCurrent = id === after.current
    const child = after.running.find((one) => one.id === id)
    if (error) return void log('error', 'the dispatcher cannot be started', { err: error })
    if (child && !child.isLoaded && !child.isUnwanted) after.hasEndedLoading = true
    if (!isCurrent) return
    after.lastEnd = child?.isStalled
      ? 'its event loop was blocked for longer than HANDLER_STALL'
      : `it ended with ${signal ?? `code ${code}`}`
    if (!after.isStopping) log('error', 'the dispatcher ended; events wait in the journal', { exit_code: code, signal })
  }

  function goOnWithout(id: number): void {
    after.running = after.running.filter((one) => one.id !== id)
    if (after.isStopping) return
    if (id === after.current) restart()
    if (id === after.loading) giveUpReplacement(id)
    if (id !== after.ending?.id) return
    if (after.ending.wasReplaced) log('info', 'handlers were loaded again')
    after.ending = undefined
    if (after.isReloadDue) startReplacement()
  }

  switch (event.type) {
    case 'start_due':
      if (!after.isStopping) after.current = start()
      break
    case 'message':
      take(event.id, event.message)
      break
    case 'stalled':
      mark(event.id, { isStalled: true })
      break
    case 'exited':
      noteExit(event.id, event.exit)
      goOnWithout(event.id)
      break
    case 'reload':
      if (after.isStopping) break
      if (after.loading === undefined && after.ending === undefined) {
        startReplacement()
        break
      }
      after.isReloadDue = true
      if (after.loading === undefined) break
      // It may have read a file before it was fixed, or may wait for ever.
      mark(after.loading, { isUnwanted: true })
      actions.push({ type: 'kill', id: after.loading })
      after.ending = { id: after.loading, wasReplaced: false }
      after.loading = undefined
      break
    case 'stop':
      after.isStopping = true
      actions.push({ type: 'schedule_start' })
      for (const { id } of after.running) actions.push({ type: 'end', id, graceMs: event.graceMs })
      break
  }
  return { after, actions }
}
