import { setImmediate as tick } from 'node:timers/promises'
import type { Logger } from 'pino'
import type { Bitrix24Error } from '../bitrix24/bitrix24-error.ts'
import { type Client, createClient } from '../bitrix24/client.ts'
import { type HookHealth, isDoubtful } from '../bitrix24/health.ts'
import type { Access, NoAccess, Portals } from '../bitrix24/portals.ts'
import type { LooseRecord, RecordOf } from '../bitrix24/record.ts'
import { isDeletion } from '../events/catalogue.ts'
import { type Context, FinalError } from '../handler/handler.ts'
import type { OwnWrites } from '../queue/own-changes.ts'
import type { Delivery } from '../queue/queue.ts'
import type { RunTimer } from './run-timer.ts'

export interface RunParts {
  readonly delivery: Delivery
  readonly log: Logger
  readonly timer: RunTimer
  readonly portals: Portals
  readonly ownWrites: OwnWrites
  /** The run needs Bitrix24. */
  readonly onCall: () => void
}

/** One run, as its handler sees it and as its dispatcher does. */
export interface Run {
  /** @param previous what it has last completed with, where `onChange` keeps that */
  readonly contextWith: (previous: LooseRecord | undefined) => Context
  /** The record as the handler gets it: read once. */
  readonly readOnce: () => Promise<LooseRecord | null>
  /** The record as it is now, whatever the handler has read. */
  readonly readRecord: () => Promise<LooseRecord | null>
  /** The handler was told that the record is gone. */
  readonly isGone: () => boolean
  /** It has written to the event's object. */
  readonly hasWritten: () => boolean
  /** After a failure: the trouble of the hook it called through, or that there was none, if that is what it failed of. */
  readonly hookTrouble: () => Promise<Bitrix24Error | NoAccess | undefined>
  /** Resolves when no call that the handler has made is under way; what nobody awaits may have failed by then. */
  readonly callsEnded: () => Promise<void>
  /** Ends the calls that are under way, so that none of them is made beside the next run. */
  readonly cutCalls: (reason: unknown) => void
}

let turn: Promise<void> | undefined

/** One for all runs that end in this turn of the event loop. */
function nextTurn(): Promise<void> {
  turn ??= tick().then(() => {
    turn = undefined
  })
  return turn
}

export function createRun({ delivery, log, timer, portals, ownWrites, onCall }: RunParts): Run {
  const { handler, event, attempt, coalesced } = delivery
  const over = new AbortController()
  const underWay = new Set<Promise<unknown>>()
  let client: Client | undefined
  let reading: Promise<LooseRecord | null> | undefined
  let doubted: HookHealth | undefined
  let lack: NoAccess | undefined
  let isGone = false
  let hasWritten = false

  function openAccess(): Access {
    onCall()
    const access = portals.accessFor(event)
    if (!('refusal' in access)) return access
    lack = access
    throw new NoHook(access.refusal)
  }

  function track<T>(call: Promise<T>): Promise<T> {
    const ended = call
      .then(
        () => undefined,
        () => undefined,
      )
      .finally(() => underWay.delete(ended))
    underWay.add(ended)
    // Another promise than the one that is looked after here: if nobody handles its failure, that is told.
    return call.then((value) => value)
  }

  async function readRecord(): Promise<LooseRecord | null> {
    const { records, health } = openAccess()
    try {
      const trouble = health.trouble()
      if (trouble) throw trouble
      const signal = AbortSignal.any([timer.signal, over.signal])
      return await records.of(event, { signal, whileWaiting: timer.whileWaiting })
    } catch (error) {
      // No other run would find one either.
      if (error instanceof TypeError) throw new FinalError(error.message)
      if (isDoubtful(error)) doubted = health
      throw error
    }
  }

  async function readOnce(): Promise<LooseRecord | null> {
    reading ??= readRecord()
    const record = await reading
    // Of a deletion nothing else was to be expected.
    isGone = record === null && !isDeletion(event.event)
    return record
  }

  function openClient(): Client {
    const { hook, limits, health, connect } = openAccess()
    const signal = AbortSignal.any([timer.signal, over.signal])
    const send = health.guard(connect(hook, signal), () => {
      doubted = health
    })
    const opened = createClient({
      hook,
      limits,
      signal,
      whileWaiting: timer.whileWaiting,
      send,
      onSend: async (commands) => {
        const remember = await ownWrites.sending({ handler, event, user: hook.user }, commands)
        return async (answered) => {
          const objects = await remember(answered)
          if (objects.some((object) => object === event.object)) hasWritten = true
        }
      },
    })
    return {
      call: (method, params) => track(opened.call(method, params)),
      batch: (commands) => track(opened.batch(commands)),
      batchSettled: (commands) => track(opened.batchSettled(commands)),
      list: opened.list,
    }
  }

  return {
    contextWith: (previous) => ({
      log,
      signal: timer.signal,
      attempt,
      coalesced,
      previous,
      get bitrix24() {
        client ??= openClient()
        return client
      },
      // What the handler says about its kind is not checked, as with call().
      record: <Kind extends string>() => track(readOnce()) as Promise<RecordOf<Kind> | null>,
    }),
    readOnce,
    readRecord,
    async callsEnded() {
      while (underWay.size > 0) await Promise.allSettled(underWay)
      // A failure that nobody handles is told when the microtasks are done.
      await nextTurn()
    },
    isGone: () => isGone,
    hasWritten: () => hasWritten,
    async hookTrouble() {
      // A call that was cut off with the run's time says so only now.
      if (client ?? reading) await tick()
      return lack ?? doubted?.examine()
    },
    cutCalls: (reason) => over.abort(reason),
  }
}

/** There is no hook for the event: the run waits until there is, and is not charged. */
class NoHook extends Error {
  override readonly name = 'NoHook'
}
