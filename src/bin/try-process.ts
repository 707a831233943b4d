import { setTimeout as sleep } from 'node:timers/promises'
import { inspect, parseArgs } from 'node:util'
import { pino } from 'pino'
import { createPortals } from '../bitrix24/portals.ts'
import { explainError } from '../cli/explain-error.ts'
import type { FromTry, ToTry } from '../cli/try/messages.ts'
import { traceRequests } from '../cli/try/rest-trace.ts'
import { readConfig } from '../config/config.ts'
import { chargeStrays } from '../dispatch/run-scope.ts'
import { createRunner, type RunnerDeps } from '../dispatch/runner.ts'
import { lockGlobals } from '../dispatch/shared-globals.ts'
import type { JournalledEvent } from '../events/event.ts'
import { placeOf } from '../handler/error-place.ts'
import { type LoadedHandler, loadHandler } from '../handler/loader.ts'
import { resolvePackageAlias } from '../handler/package-alias.ts'
import { unknownEvents } from '../handler/unknown-events.ts'
import { openParent, parentOption } from '../lib/child-process.ts'
import { realClock } from '../lib/clock.ts'
import { printableLines } from '../lib/printable.ts'
import { sendAlive } from '../lib/stall-watchdog.ts'
import { createLoopBreaker } from '../queue/loop-breaker.ts'
import type { OwnChanges } from '../queue/own-changes.ts'

// `b24-receiver try` runs a handler in this process as a dispatcher would. A handler that blocks or ends its process
// affects only this one.

const { positionals } = parseArgs({ allowPositionals: true, options: { [parentOption]: { type: 'string' } } })
const [file = ''] = positionals
const config = readConfig(process.env, 'dispatcher')
const interrupt = new AbortController()
const parent = openParent<ToTry, FromTry>({ mayBlock: true })

/** A trial run neither records its own writes nor looks up those of the receiver's handlers. */
const noOwnWrites: OwnChanges = {
  sending: () => () => [],
  judge: () => Promise.resolve('run'),
  close: () => undefined,
}

resolvePackageAlias()
chargeStrays((error) => {
  process.stderr.write(`${explainError(error, file)}\n`)
  process.exit(1)
})
lockGlobals()
// Ctrl-C reaches this process and its parent. The parent decides what it means.
process.on('SIGINT', () => undefined)
parent.events.on('close', () => process.exit(1))
sendAlive(parent, config.handlerStall)

const handler = await load()
parent.events.on('message', (message) => {
  if (message.type === 'interrupt') interrupt.abort(new DOMException('interrupted', 'AbortError'))
  else void run(message.event, message.isDry)
})
parent.send({ type: 'loaded', name: handler.name, events: handler.events, unknown: unknownEvents(handler) })

async function load(): Promise<LoadedHandler> {
  try {
    return await loadHandler(file)
  } catch (error) {
    parent.send({ type: 'broken', at: await placeOf(error, file), error: explainError(error, file) })
    return end()
  }
}

async function run(event: JournalledEvent, isDry: boolean): Promise<void> {
  const connect = traceRequests({
    isDry,
    onRequest: (request) => parent.send({ type: 'request', request: toJson(request) }),
  })
  const portals = createPortals({ ...config, clock: realClock, onChange: () => undefined, connect })
  let thrown: unknown
  let returned: unknown
  let due: number | undefined
  let isStuck = false
  const queue: RunnerDeps['queue'] = {
    done: () => undefined,
    dead: () => undefined,
    postpone: () => undefined,
    // No snapshot, so that `onChange` treats the object as new to the handler.
    snapshot: () => undefined,
    markDirty: () => undefined,
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
      // The runner's own lines are silent, because this process reports the outcome. The handler writes to a child logger.
      level: 'silent',
      base: null,
      timestamp: pino.stdTimeFunctions.isoTime,
      onChild: (child) => {
        if (child.level === 'silent') child.level = config.logLevel
      },
    },
    { write: (line) => parent.send({ type: 'log', line }) },
  )
  const runner = createRunner({
    ...config,
    queue,
    portals,
    ownChanges: noOwnWrites,
    loopBreaker: createLoopBreaker(),
    log,
    interrupt: interrupt.signal,
    onStuck: () => {
      isStuck = true
    },
    resume: () => undefined,
    onOutcome: ({ outcome, ms, reason }) =>
      parent.send({
        type: 'ended',
        outcome,
        ms,
        ...(due !== undefined && { dueIn: due - Date.now() }),
        // A run that timed out or never ended has a reason, but the handler threw nothing.
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

/** Ends this process, whatever timers or sockets the handler has left open. */
function end(): Promise<never> {
  return new Promise(() => parent.send({ type: 'alive' }, () => process.exit(0)))
}

function toJson<T>(value: T): T | string {
  try {
    return JSON.parse(JSON.stringify(value))
  } catch {
    return inspect(value)
  }
}
