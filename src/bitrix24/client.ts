import { maxCommands, readResults, toQueries } from './batch.ts'
import { Bitrix24Error } from './bitrix24-error.ts'
import type { Commands, Params, Settled } from './commands.ts'
import type { IncomingWebhook } from './incoming-webhook.ts'
import type { Limits } from './limits.ts'
import { readPages } from './pages.ts'
import { type Command, toBatch, toCommand } from './parameters.ts'
import { createTransport, type Envelope, type Send } from './transport.ts'

/**
 * REST of one portal. It waits for its turn by itself. Every failure is a `Bitrix24Error`; an abort throws the
 * signal's reason. Parameters that cannot be sent as intended, such as a promise, throw a `FinalError` before any
 * request.
 */
export interface Client {
  /** Returns the answer's `result`. It is not checked against `T`. */
  readonly call: <T = unknown>(method: string, params?: Params) => Promise<T>
  /**
   * Sends up to 50 commands in one request. The first failure ends the batch and is thrown, with its key as
   * `command`.
   */
  readonly batch: <K extends string>(commands: Commands<K>) => Promise<Record<K, unknown>>
  /** Sends a batch like `batch`, but runs all commands, and returns the result or the error of each. */
  readonly batchSettled: <K extends string>(commands: Commands<K>) => Promise<Record<K, Settled>>
  /**
   * Returns the rows of all pages, in the requested order, and requests each page when it is needed. If fewer rows
   * came than the portal counted, it throws an `IncompleteList` with both numbers after the last row. Rows that
   * change meanwhile may move to another page: for long lists use `start: -1`, which continues from the last id.
   */
  readonly list: <T = unknown>(method: string, params?: Params) => AsyncGenerator<T, void, undefined>
}

export interface Answered extends Command {
  readonly result: unknown
  /** The portal's value, unchanged. */
  readonly time: unknown
}

type Report = (answered: readonly Answered[]) => void | Promise<void>

export interface ClientDeps {
  readonly incomingWebhook: IncomingWebhook
  /** The limits of the incoming webhook's portal, shared by all callers in this process. */
  readonly limits: Limits
  /** Aborts requests in progress. */
  readonly signal?: AbortSignal | undefined
  /** Wraps every wait for a turn, so that a run's timeout can pause meanwhile. */
  readonly whileWaiting?: <T>(wait: Promise<T>) => Promise<T>
  /** Replaces the transport, to wrap each request. */
  readonly send?: Send
  /**
   * Called before each request. The function that it returns is called with the answered commands, or with an empty
   * list if the portal refused. It is not called if the outcome is unknown.
   */
  readonly onSend?: (commands: readonly Command[]) => Report | Promise<Report>
}

export function createClient(deps: ClientDeps): Client {
  const { incomingWebhook, limits, signal, whileWaiting = (wait) => wait, onSend = () => () => undefined } = deps
  const { send = createTransport(incomingWebhook, signal) } = deps

  /** `report` is the function that `onSend` returned; `commands` are those of a batch. */
  async function request(
    { method, params }: Command,
    commands: readonly Command[] = [],
  ): Promise<Envelope & { readonly report: Report }> {
    const methods = [method, ...commands.map((command) => command.method)]
    for (;;) {
      signal?.throwIfAborted()
      await whileWaiting(limits.turn(methods, signal))
      const report = await onSend(method === 'batch' ? commands : [{ method, params }])
      try {
        const envelope = await send(method, params)
        limits.learn(method, envelope.time)
        return { ...envelope, report }
      } catch (error) {
        if (!(error instanceof Bitrix24Error)) throw error
        const isLimit = limits.refuse(method, error.code)
        // A 5xx may come although everything was done.
        if (isLimit || (error.status >= 400 && error.status < 500)) await report([])
        if (!isLimit) throw error
      }
    }
  }

  async function runBatch(commands: Batch, halt: boolean): Promise<Map<string, Settled>> {
    const params = { halt: Number(halt), cmd: toQueries(commands) }
    const { result, time, report } = await request({ method: 'batch', params }, [...commands.values()])
    const { results, times } = readResults({ result, commands, incomingWebhook })
    const answered: Answered[] = []
    for (const [key, command] of commands) {
      limits.learn(command.method, times.get(key))
      const one = results.get(key)
      if (one && 'result' in one) answered.push({ ...command, ...one, time: times.get(key) ?? time })
    }
    await report(answered)
    return results
  }

  /**
   * Waits for a blocked method, as `call` does, and then sends the remaining commands again. It does not do so if
   * commands use results, because results of another request are not available.
   */
  async function runUnblocked(commands: Batch, halt: boolean): Promise<Map<string, Settled>> {
    const all = new Map<string, Settled>()
    const mayResend = !JSON.stringify([...commands]).includes('$result[')
    let left = commands
    for (;;) {
      const results = await runBatch(left, halt)
      const again = new Map<string, Command>()
      for (const [key, command] of left) {
        const one = results.get(key)
        const isBlocked = one && 'error' in one && limits.refuse(command.method, one.error.code) && mayResend
        const isBehindBlocked = !one && again.size > 0
        if (isBlocked || isBehindBlocked) again.set(key, command)
        else if (one) all.set(key, one)
      }
      if (again.size === 0) return all
      left = again
    }
  }

  async function requestPage(command: Command): Promise<Envelope> {
    const { report, ...envelope } = await request(command)
    await report([])
    return envelope
  }

  async function call<T>(method: string, params?: Params): Promise<T> {
    const command = toCommand(method, params, call)
    const { result, time, report } = await request(command)
    await report([{ ...command, result, time }])
    return result as T
  }

  async function batch<K extends string>(commands: Commands<K>): Promise<Record<K, unknown>> {
    const results: [string, unknown][] = []
    for (const [key, one] of await runUnblocked(toBatch(commands, maxCommands, batch), true)) {
      if ('error' in one) throw one.error
      results.push([key, one.result])
    }
    return Object.fromEntries(results) as Record<K, unknown>
  }

  async function batchSettled<K extends string>(commands: Commands<K>): Promise<Record<K, Settled>> {
    return Object.fromEntries(await runUnblocked(toBatch(commands, maxCommands, batchSettled), false)) as Record<
      K,
      Settled
    >
  }

  /** Not a generator function: that would check the parameters only when the first row is requested. */
  function list<T>(method: string, params?: Params): AsyncGenerator<T, void, undefined> {
    return readPages<T>(toCommand(method, params, list), requestPage)
  }

  return { call, batch, batchSettled, list }
}

type Batch = ReadonlyMap<string, Command>
