import { setTimeout as sleep } from 'node:timers/promises'
import { inspect } from 'node:util'
import { Worker } from 'node:worker_threads'
import { pino } from 'pino'
import { realClock } from '../lib/clock.ts'
import { createPortals } from '../bitrix24/portals.ts'
import { readConfig } from '../config/config.ts'
import { createLoopBreaker } from '../queue/loop-breaker.ts'
import { resolveOurName } from '../handler/package-alias.ts'
import type { OwnWrites } from '../queue/own-changes.ts'
import { type LoadedHandler, loadHandler, placeOf, unknownEvents } from '../handler/loader.ts'
import { chargeStrays } from '../dispatch/run-scope.ts'
import { createRunner, type RunnerParts } from '../dispatch/runner.ts'
import { lockGlobals } from '../dispatch/shared-globals.ts'
import type { JournalledEvent } from '../journal/follow.ts'
import { printableLines } from '../lib/printable.ts'
import { explainError } from '../cli/explain-error.ts'
import { traceRequests } from '../cli/try/rest-trace.ts'
import type { FromTry, ToTry } from '../cli/try/messages.ts'

// The process in which `b24-receiver try` runs a handler, as a dispatcher would: what it does to its process, it does here.

const [file = ''] = process.argv.slice(2)
const config = readConfig(process.env, 'dispatcher')
const interrupt = new AbortController()

/** Nothing is remembered of what a trial writes, and nothing of what handlers of the receiver have written is asked. */
const noOwnWrites: OwnWrites = {
  sending: () => () => [],
  judge: () => Promise.resolve('run'),
  close: () => undefined,
}

resolveOurName()
chargeStrays((error) => {
  process.stderr.write(`${explainError(error, file)}\n`)
  process.exit(1)
})
lockGlobals()
// Ctrl-C reaches both of us; the parent decides what it means.
process.on('SIGINT', () => undefined)
process.on('disconnect', () => process.exit(1))
new Worker(new URL('./parent-watch.ts', import.meta.url), { workerData: process.ppid }).unref()
const alive = () => tell({ type: 'alive' })
alive()
setInterval(alive, Math.min(1_000, config.handlerStall / 4))

const handler = await load()
process.on('message', (message: ToTry) => {
  if (message.type === 'interrupt') interrupt.abort(new DOMException('interrupted', 'AbortError'))
  else void run(message.event, message.isDry)
})
tell({ type: 'loaded', name: handler.name, events: handler.events, unknown: unknownEvents(handler) })

async function load(): Promise<LoadedHandler> {
  try {
    return await loadHandler(file)
  } catch (error) {
    tell({ type: 'broken', at: await placeOf(error, file), error: explainError(error, file) })
    return end()
  }
}

async function run(event: JournalledEvent, isDry: boolean): Promise<void> {
  const connect = traceRequests({ isDry, tell: (request) => tell({ type: 'request', request: toJson(request) }) })
  const portals = createPortals({ ...config, clock: realClock, onChange: () => undefined, connect })
  let thrown: unknown
  let returned: unknown
  let due: number | undefined
  let isStuck = false
  const queue: RunnerParts['queue'] = {
    done: () => undefined,
    dead: () => undefined,
    postpone: () => undefined,
    // It has never run for the object, as far as `onChange` goes.
    seen: () => undefined,
    doubt: () => undefined,
    retry: (_, again) => {
      due = again.due
    },
  }
  const watched: LoadedHandler = {
    ...handler,
    async handle(event, context) {
      try {
        returned = await handler.handle(event, context)
      } catch (error) {
        thrown = error
        throw error
      }
    },
  }
  const log = pino(
    {
      // What the runner says of the run, we say ourselves; the handler writes to a child.
      level: 'silent',
      base: null,
      timestamp: pino.stdTimeFunctions.isoTime,
      onChild: (child) => {
        if (child.level === 'silent') child.level = config.logLevel
      },
    },
    { write: (line) => tell({ type: 'log', line }) },
  )
  const runner = createRunner({
    ...config,
    queue,
    portals,
    ownWrites: noOwnWrites,
    loopBreaker: createLoopBreaker(),
    log,
    interrupt: interrupt.signal,
    onStuck: () => {
      isStuck = true
    },
    resume: () => undefined,
    onOutcome: ({ outcome, ms, reason }) =>
      tell({
        type: 'ended',
        outcome,
        ms,
        ...(due !== undefined && { dueIn: due - Date.now() }),
        // Of what came too late or not at all there is a reason, but nothing was thrown.
        ...(reason !== undefined && { error: thrown === undefined ? reason : explainError(thrown, file) }),
        ...(returned !== undefined && { returned: toJson(returned) }),
      }),
  })
  const delivery = { key: 0, handler: handler.name, event, attempt: 1, coalesced: 1, spentMs: 0 }
  await runner.run(delivery, watched)
  portals.stop()
  if (!isStuck) await Promise.race([dispose(), sleep(config.shutdownGrace)])
  await end()
}

async function dispose(): Promise<void> {
  try {
    await handler.dispose?.()
  } catch (error) {
    process.stderr.write(`dispose() failed: ${printableLines(explainError(error, file))}\n`)
  }
}

/** Ends this process, whatever the handler has left behind in it. */
function end(): Promise<never> {
  return new Promise(() =>
    process.send?.({ type: 'alive' } satisfies FromTry, undefined, undefined, () => process.exit(0)),
  )
}

function tell(message: FromTry): void {
  // Whoever is gone needs no message, and `disconnect` ends us.
  if (process.connected) process.send?.(message, undefined, undefined, () => undefined)
}

/** What cannot be told as JSON is told as a person would read it. */
function toJson<T>(value: T): T | string {
  try {
    return JSON.parse(JSON.stringify(value))
  } catch {
    return inspect(value)
  }
}
