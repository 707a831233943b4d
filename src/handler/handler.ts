import type { Logger } from 'pino'
import type { Client } from '../bitrix24/client.ts'
import type { LooseRecord, RecordOf } from '../bitrix24/record.ts'
import type { EventName, EventOf, KindOf } from '../events/typed.ts'
import { parseDuration } from '../lib/duration.ts'

export { FinalError, isFinal } from '../lib/final-error.ts'

/** What a handler receives in addition to the event. */
export interface Context<Previous = LooseRecord | undefined, Kind extends string = string> {
  /** Writes to the receiver's diagnostic log. Each line names the handler and the event. */
  readonly log: Logger
  /**
   * Aborts when the run takes longer than `HANDLER_TIMEOUT`. Pass it to `fetch`. The time pauses
   * while a call waits for its turn at Bitrix24.
   */
  readonly signal: AbortSignal
  /** 1 on the first run of this event, 2 on the first retry, … */
  readonly attempt: number
  /** How many events this run stands for, including its own. More than 1 only with the option `coalesce`. */
  readonly coalesced: number
  /**
   * Calls the REST API of the event's portal through the matching incoming webhook. Its calls end with `signal`.
   *
   * @throws when `B24_HOOK` has no incoming webhook for this event, or one of another portal. The run waits for it, and the
   * attempt does not count.
   */
  readonly bitrix24: Client
  /**
   * Returns the event's object as the portal has it now. It is read once in a run. The type follows
   * from the handler's event; if that is not known, write `record<'deal'>()`. `null` if the object is
   * gone, and for the event of its deletion.
   *
   * @throws {FinalError} when no method reads such an object
   * @throws what `bitrix24` throws when there is no incoming webhook for this event
   */
  readonly record: <As extends string = Kind>() => Promise<RecordOf<As> | null>
  /**
   * With the option `onChange`: its fields, with the values from when this handler last completed
   * for this object. `undefined` if it never did. A field is absent if `onChange` did not name it
   * then, or if its value was too long to store.
   */
  readonly previous: Previous
}

/**
 * Handles one event. When the handler returns or its promise resolves, the event is done. When it throws, the event is
 * retried. A handler may get the same event twice, for example after a crash, so it must be idempotent.
 */
export type Handler<Name extends string = string, Previous = LooseRecord | undefined> = (
  event: EventOf<Name>,
  context: Context<Previous, KindOf<Name>>,
) => unknown

/** What `onChange` may name for events of this name: one of the record's fields if they are known, otherwise any. */
export type FieldOf<Name extends string> = keyof RecordOf<KindOf<Name>> & string

/** The type of `context.previous`. `undefined` without fields. */
export type PreviousOf<Name extends string, Field extends string> = [Field] extends [never]
  ? undefined
  : { readonly [F in Field]?: RecordOf<KindOf<Name>>[F & FieldOf<Name>] } | undefined

/** How a handler is run. Durations are written as in the environment: `500ms`, `30s`, `5m`, `2h`, `7d`. */
export interface HandlerOptions<Field extends string = string> {
  /**
   * Events of one object that wait when a run starts become one run, with the newest event and `context.coalesced`.
   * `true` combines events of one name, `'object'` events of all names of this handler.
   */
  readonly coalesce?: boolean | 'object'
  /** Waits for the end of a burst: until the object has had no event for this long, or for ten times as long at most. */
  readonly debounce?: string
  /** Overrides `HANDLER_TIMEOUT`. */
  readonly timeout?: string
  /** Overrides `RETRY_FOR`. */
  readonly retryFor?: string
  /** How many runs of this handler may be under way at once, within `CONCURRENCY`. */
  readonly concurrency?: number
  /** `'none'`: events of one object may run at the same time and in any order. */
  readonly order?: 'object' | 'none'
  /** `true`: the handler does not run for an event that only reports its own write through `context.bitrix24`. */
  readonly ignoreOwnChanges?: boolean
  /**
   * The handler runs only if one of these fields differs from its value when the handler last completed for the object.
   * `context.previous` has those values.
   */
  readonly onChange?: readonly Field[]
  /**
   * With `onChange`: what to do with an object for which this handler has never completed. `'run'`, the default, runs the
   * handler. `'remember'` only stores the fields, so that the first run is for a real change.
   */
  readonly first?: 'run' | 'remember'
}

/** `HandlerOptions` after parsing: durations in milliseconds, `undefined` if the environment decides. */
export interface RunOptions {
  readonly coalesce: boolean | 'object'
  readonly debounce: number
  readonly timeout: number | undefined
  readonly retryFor: number | undefined
  readonly concurrency: number
  readonly order: 'object' | 'none'
  readonly ignoreOwnChanges: boolean
  readonly onChange: readonly string[] | undefined
  readonly first: 'run' | 'remember'
}

/** The value that `defineHandler` returns and a handler file exports as its default. */
export interface HandlerDefinition {
  readonly [definitionBrand]: true
  readonly events: readonly string[]
  readonly handle: Handler
  readonly options: RunOptions
}

// Symbol.for: a second copy of this package in the handlers' node_modules must have the same symbols.
const definitionBrand = Symbol.for('bitrix24-webhook-receiver.handler')
const retryBrand = Symbol.for('bitrix24-webhook-receiver.retry')

/**
 * Handles several events, or all that match a pattern, in one file:
 *
 * ```ts
 * export default defineHandler(['ONCRMDEALADD', 'ONCRMLEAD*'], async (event, { log }) => {
 *   log.info({ object: event.object }, 'new or changed')
 * })
 * ```
 *
 * @param events event names, or patterns in which `*` stands for any characters; case does not matter
 * @throws {TypeError} when a name is not valid, or this version does not know an option
 */
export function defineHandler<const Name extends EventName | (string & {}), Field extends FieldOf<Name> = never>(
  events: Name | readonly Name[],
  // NoInfer: `events` gives the names. Inferring them also from the union of a pattern's events takes the compiler seconds.
  handle: NoInfer<Handler<Name, PreviousOf<Name, Field>>>,
  options?: HandlerOptions<Field>,
): HandlerDefinition
export function defineHandler(
  events: string | readonly string[],
  handle: Handler,
  options: HandlerOptions = {},
): HandlerDefinition {
  const names = [events].flat()
  if (names.length === 0) throw new TypeError('defineHandler: name at least one event')
  for (const name of names)
    if (typeof name !== 'string' || !/^[\w.*]+$/.test(name))
      throw new TypeError(`defineHandler: ${JSON.stringify(name)} is no event name or pattern such as ONCRMDEAL*`)
  if (typeof handle !== 'function')
    throw new TypeError('defineHandler: the second argument must be the handler function')
  return { [definitionBrand]: true, events: names, handle, options: readOptions(options) }
}

const maxTimeoutMs = 86_400_000

/** The options of a handler that does not use `defineHandler`. */
export const defaultOptions = readOptions({})

function readOptions(options: HandlerOptions): RunOptions {
  const {
    coalesce = false,
    debounce = '0s',
    timeout,
    retryFor,
    concurrency = Number.POSITIVE_INFINITY,
    order = 'object',
    ignoreOwnChanges = false,
    onChange,
    first = 'run',
    ...unknown
  } = options
  const refuse = (name: string, rule: string): never => {
    throw new TypeError(`defineHandler: ${name} must be ${rule}, got ${JSON.stringify(Reflect.get(options, name))}`)
  }
  const [other] = Object.keys(unknown)
  if (other !== undefined) throw new TypeError(`defineHandler: the option "${other}" is not supported by this version`)
  const time = (name: string, text: string) => parseDuration(text) ?? refuse(name, 'a time such as 10s or 5m')
  const limit = timeout === undefined ? undefined : time('timeout', timeout)
  // The same limit as HANDLER_TIMEOUT. Node's timers cannot be set for longer than 24 days.
  if (limit !== undefined && (limit < 1 || limit > maxTimeoutMs)) refuse('timeout', 'a time from 1ms to 1d')
  if (typeof coalesce !== 'boolean' && coalesce !== 'object') refuse('coalesce', "true, false or 'object'")
  if (order !== 'object' && order !== 'none') refuse('order', "'object' or 'none'")
  if (order === 'none' && coalesce !== false) refuse('order', "'object' where coalesce is set")
  if (order === 'none' && onChange !== undefined) refuse('order', "'object' where onChange is set")
  if (onChange !== undefined && !isListOfNames(onChange))
    refuse('onChange', "a list of names of fields, such as ['stageId'], each once")
  if (first !== 'run' && first !== 'remember') refuse('first', "'run' or 'remember'")
  if (options.first !== undefined && onChange === undefined) refuse('first', 'set only beside onChange')
  if (typeof ignoreOwnChanges !== 'boolean') refuse('ignoreOwnChanges', 'true or false')
  if (concurrency !== Number.POSITIVE_INFINITY && !(Number.isInteger(concurrency) && concurrency > 0))
    refuse('concurrency', 'a whole number from 1')
  return {
    coalesce,
    debounce: time('debounce', debounce),
    timeout: limit,
    retryFor: retryFor === undefined ? undefined : time('retryFor', retryFor),
    concurrency,
    order,
    ignoreOwnChanges,
    onChange,
    first,
  }
}

function isListOfNames(list: unknown): boolean {
  if (!Array.isArray(list) || list.length === 0 || new Set(list).size < list.length) return false
  return list.every((name) => typeof name === 'string' && name !== '')
}

export function isDefinition(value: unknown): value is HandlerDefinition {
  return isBranded(value, definitionBrand)
}

/**
 * Throw it to choose when the next attempt comes: `throw new RetryAfter('5m')`. The minimum is one second. A delay that is
 * longer than the rest of `RETRY_FOR` is refused: the error says so, and the usual backoff applies.
 */
export class RetryAfter extends Error {
  override readonly name = 'RetryAfter'
  /** Milliseconds. */
  readonly [retryBrand]: number

  /** @param delay such as `500ms`, `30s`, `5m`, `2h`, `7d` */
  constructor(delay: string, options?: ErrorOptions) {
    const milliseconds = parseDuration(delay)
    if (milliseconds === undefined) throw new TypeError(`RetryAfter: "${delay}" is no time such as 30s, 5m or 2h`)
    super(`retry after ${delay}`, options)
    this[retryBrand] = milliseconds
  }
}

/** Returns the delay in milliseconds, or `undefined` if the error chose none. */
export function chosenDelay(error: unknown): number | undefined {
  const delay = isBranded(error, retryBrand) ? Number((error as RetryAfter)[retryBrand]) : Number.NaN
  // Another copy of the package may store any value there.
  return Number.isFinite(delay) ? Math.ceil(delay) : undefined
}

function isBranded(value: unknown, brand: symbol): boolean {
  return typeof value === 'object' && value !== null && brand in value
}
