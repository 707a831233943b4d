import { setImmediate as tick } from 'node:timers/promises'
import type { Logger } from 'pino'
import type { Bitrix24Error } from '../bitrix24/bitrix24-error.ts'
import { type Client, createClient } from '../bitrix24/client.ts'
import { type IncomingWebhookHealth, isDoubtful } from '../bitrix24/health.ts'
import type { Access, NoAccess, Portals } from '../bitrix24/portals.ts'
import type { LooseRecord, RecordOf } from '../bitrix24/record.ts'
import { isDeletion } from '../events/catalogue.ts'
import { type Context, FinalError } from '../handler/handler.ts'
import type { OwnChanges } from '../queue/own-changes.ts'
import type { Delivery } from '../queue/queue.ts'
import type { RunTimer } from './run-timer.ts'

export interface RunDeps {
  readonly delivery: Delivery
  readonly log: Logger
  readonly timer: RunTimer
  readonly portals: Portals
  readonly ownChanges: OwnChanges
  readonly onCall: () => void
}

let turn: Promise<void> | undefined

/** Returns one promise for all runs that end in this turn of the event loop. */
function nextTurn(): Promise<void> {
  turn ??= tick().then(() => {
    turn = undefined
  })
  return turn
}

export function createRun({ delivery, log, timer, portals, ownChanges, onCall }: RunDeps) {
  const { handler, event, attempt, coalesced } = delivery
  const over = new AbortController()
  const underWay = new Set<Promise<unknown>>()
  let client: Client | undefined
  let reading: Promise<LooseRecord | null> | undefined
  let doubted: IncomingWebhookHealth | undefined
  let lack: NoAccess | undefined
  let isGone = false
  let hasWritten = false

  function openAccess(): Access {
    onCall()
    const access = portals.accessFor(event)
    if (!('refusal' in access)) return access
    lack = access
    throw new NoIncomingWebhook(access.refusal)
  }

  function track<T>(call: Promise<T>): Promise<T> {
    const ended = call
      .then(
        () => undefined,
        () => undefined,
      )
      .finally(() => underWay.delete(ended))
    underWay.add(ended)
    // A new promise: the one above has a rejection handler, which would hide a failure that the handler does not await.
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
      // A retry would not find a method that reads this object either.
      if (error instanceof TypeError) throw new FinalError(error.message)
      if (isDoubtful(error)) doubted = health
      throw error
    }
  }

  async function readOnce(): Promise<LooseRecord | null> {
    reading ??= readRecord()
    const record = await reading
    // After a deletion, null is the expected answer.
    isGone = record === null && !isDeletion(event.event)
    return record
  }

  function openClient(): Client {
    const { incomingWebhook, limits, health, connect } = openAccess()
    const signal = AbortSignal.any([timer.signal, over.signal])
    const send = health.guard(connect(incomingWebhook, signal), () => {
      doubted = health
    })
    const opened = createClient({
      incomingWebhook,
      limits,
      signal,
      whileWaiting: timer.whileWaiting,
      send,
      onSend: async (commands) => {
        const remember = await ownChanges.sending({ handler, event, user: incomingWebhook.user }, commands)
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
    /** @param previous the fields at the last completed run, if `onChange` stored them */
    contextWith: (previous: LooseRecord | undefined): Context => ({
      log,
      signal: timer.signal,
      attempt,
      coalesced,
      previous,
      get bitrix24() {
        client ??= openClient()
        return client
      },
      // The kind that the handler states is not checked, as with call().
      record: <Kind extends string>() => track(readOnce()) as Promise<RecordOf<Kind> | null>,
    }),
    /** Reads the record that the handler gets. It is read once. */
    readOnce,
    /** Reads the current record, even if the handler has read it before. */
    readRecord,
    /**
     * Resolves when none of the handler's calls is under way. A call that the handler did not await may have failed by
     * then.
     */
    callsEnded: async (): Promise<void> => {
      while (underWay.size > 0) await Promise.allSettled(underWay)
      // Node reports an unhandled rejection when the microtasks are done.
      await nextTurn()
    },
    /** Whether the handler got the answer that the record is gone. */
    isGone: () => isGone,
    /** Whether the handler has written to the event's object. */
    hasWritten: () => hasWritten,
    /**
     * Returns, after a failure, the trouble of the incoming webhook that it called through, or the lack of one, if that
     * was the cause.
     */
    incomingWebhookTrouble: async (): Promise<Bitrix24Error | NoAccess | undefined> => {
      // A call that the timeout aborted rejects only in the next turn.
      if (client ?? reading) await tick()
      return lack ?? doubted?.examine()
    },
    /** Aborts the calls that are under way, so that none of them overlaps the next run. */
    cutCalls: (reason: unknown) => over.abort(reason),
  }
}

/** There is no incoming webhook for the event. The run waits until there is one, and its attempt is not counted. */
class NoIncomingWebhook extends Error {
  override readonly name = 'NoHook'
}
