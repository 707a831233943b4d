import { mostCommands, readResults, toQueries } from './batch.ts'
import { Bitrix24Error } from './bitrix24-error.ts'
import type { Hook } from './incoming-webhook.ts'
import type { Limits } from './limits.ts'
import { readPages } from './pages.ts'
import { type Command, toBatch, toCommand } from './parameters.ts'
import { createTransport, type Envelope, type Send } from './transport.ts'

export type Params = Readonly<Record<string, unknown>>
/** By key; the results of those before may be used in a value, as `$result[key][field]`. */
export type Commands<K extends string = string> = Readonly<Record<K, readonly [method: string, params?: Params]>>

export type Settled = { readonly result: unknown } | { readonly error: Bitrix24Error }

/**
 * REST of one portal. Waits for its turn by itself; every failure is a `Bitrix24Error`, an abort the signal's reason, and
 * parameters that cannot be sent as they are meant, such as a promise, are a `FinalError` before anything is sent.
 */
export interface Client {
  /** The answer's `result`. What `T` says is not checked. */
  readonly call: <T = unknown>(method: string, params?: Params) => Promise<T>
  /** Up to 50 commands in one request; the first that fails ends it and is thrown, with its key as `command`. */
  readonly batch: <K extends string>(commands: Commands<K>) => Promise<Record<K, unknown>>
  /** As `batch`, but all of them run, and each has its result or its error. */
  readonly batchSettled: <K extends string>(commands: Commands<K>) => Promise<Record<K, Settled>>
  /**
   * The rows of all pages, in the order asked for, each page when it is needed. If fewer rows came than the portal counted,
   * the last is followed by an `IncompleteList`, with both numbers. Rows that are written meanwhile may move to another
   * page: for long lists ask with `start: -1`, which reads on from the last id.
   */
  readonly list: <T = unknown>(method: string, params?: Params) => AsyncGenerator<T, void, undefined>
}

export interface Answered extends Command {
  readonly result: unknown
  /** The portal's, as it came. */
  readonly time: unknown
}

type Told = (answered: readonly Answered[]) => void | Promise<void>

export interface ClientParts {
  readonly hook: Hook
  /** Of the hook's portal, the same for everybody in this process. */
  readonly limits: Limits
  /** Ends what is under way. */
  readonly signal?: AbortSignal | undefined
  /** Goes round every wait for a turn, so that a run's timeout may stand still meanwhile. */
  readonly whileWaiting?: <T>(wait: Promise<T>) => Promise<T>
  /** Instead of the transport alone, for what goes round each request. */
  readonly send?: Send
  /**
   * Called before each request; what it gives is called with what was answered, with nothing where the portal refused,
   * and not at all where nobody knows whether anything was done.
   */
  readonly onSend?: (commands: readonly Command[]) => Told | Promise<Told>
}

export function createClient(parts: ClientParts): Client {
  const { hook, limits, signal, whileWaiting = (wait) => wait, onSend = () => () => undefined } = parts
  const { send = createTransport(hook, signal) } = parts

  /** `tell` is for what `onSend` gave; `commands` are those of a batch. */
  async function request(
    { method, params }: Command,
    commands: readonly Command[] = [],
  ): Promise<Envelope & { readonly tell: Told }> {
    const methods = [method, ...commands.map((command) => command.method)]
    for (;;) {
      signal?.throwIfAborted()
      await whileWaiting(limits.turn(methods, signal))
      const tell = await onSend(method === 'batch' ? commands : [{ method, params }])
      try {
        const envelope = await send(method, params)
        limits.learn(method, envelope.time)
        return { ...envelope, tell }
      } catch (error) {
        if (!(error instanceof Bitrix24Error)) throw error
        const isLimit = limits.refuse(method, error.code)
        // A 5xx may come when everything is done.
        if (isLimit || (error.status >= 400 && error.status < 500)) await tell([])
        if (!isLimit) throw error
      }
    }
  }

  async function runBatch(commands: Batch, halt: boolean): Promise<Map<string, Settled>> {
    const params = { halt: Number(halt), cmd: toQueries(commands) }
    const { result, time, tell } = await request({ method: 'batch', params }, [...commands.values()])
    const { settled, times } = readResults({ result, commands, hook })
    const answered: Answered[] = []
    for (const [key, command] of commands) {
      limits.learn(command.method, times.get(key))
      const one = settled.get(key)
      if (one && 'result' in one) answered.push({ ...command, ...one, time: times.get(key) ?? time })
    }
    await tell(answered)
    return settled
  }

  /**
   * A blocked method is waited for, as in `call`, and then what is left is sent again; not where commands use results,
   * because those of another request are not there.
   */
  async function settle(commands: Batch, halt: boolean): Promise<Map<string, Settled>> {
    const all = new Map<string, Settled>()
    const mayResend = !JSON.stringify([...commands]).includes('$result[')
    let left = commands
    for (;;) {
      const settled = await runBatch(left, halt)
      const again = new Map<string, Command>()
      for (const [key, command] of left) {
        const one = settled.get(key)
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
    const { tell, ...envelope } = await request(command)
    await tell([])
    return envelope
  }

  async function call<T>(method: string, params?: Params): Promise<T> {
    const command = toCommand(method, params, call)
    const { result, time, tell } = await request(command)
    await tell([{ ...command, result, time }])
    return result as T
  }

  async function batch<K extends string>(commands: Commands<K>): Promise<Record<K, unknown>> {
    const results: [string, unknown][] = []
    for (const [key, one] of await settle(toBatch(commands, mostCommands, batch), true)) {
      if ('error' in one) throw one.error
      results.push([key, one.result])
    }
    return Object.fromEntries(results) as Record<K, unknown>
  }

  async function batchSettled<K extends string>(commands: Commands<K>): Promise<Record<K, Settled>> {
    return Object.fromEntries(await settle(toBatch(commands, mostCommands, batchSettled), false)) as Record<K, Settled>
  }

  /** Not itself the generator: that would check when the first row is asked for. */
  function list<T>(method: string, params?: Params): AsyncGenerator<T, void, undefined> {
    return readPages<T>(toCommand(method, params, list), requestPage)
  }

  return { call, batch, batchSettled, list }
}

type Batch = ReadonlyMap<string, Command>
