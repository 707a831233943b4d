import type { Logger } from 'pino'
import type { Client } from '../bitrix24/client.ts'
import type { LooseRecord, RecordOf } from '../bitrix24/record.ts'
import { parseDuration } from '../config/values.ts'
import type { EventName, EventOf, KindOf } from '../events/typed.ts'

export { FinalError, isFinal } from '../lib/final-error.ts'

/** What a handler gets beside the event. */
export interface Context<Previous = LooseRecord | undefined, Kind extends string = string> {
  /** Writes to the receiver's diagnostic log, marked with handler and event. */
  readonly log: Logger
  /**
   * Aborts when the run takes longer than `HANDLER_TIMEOUT`; pass it to `fetch`. While a call waits for its turn at
   * Bitrix24 that time stands still.
   */
  readonly signal: AbortSignal
  /** 1 on the first run of this event, 2 on the first retry, … */
  readonly attempt: number
  /** How many events this run stands for, itself included; more than 1 only with the option `coalesce`. */
  readonly coalesced: number
  /**
   * REST of the event's portal, through the hook of its webhook. Its calls end with `signal`.
   *
   * @throws when `B24_HOOK` has no hook for this event, or one of another portal: the run waits until it has, uncharged
   */
  readonly bitrix24: Client
  /**
   * What the event is about, as the portal has it now. Its type is that of the handler's event; where that is not known,
   * `record<'deal'>()` gives it one. Read once in a run. `null` when it is gone, and for the event of its deletion.
   *
   * @throws {FinalError} when no method reads such an object; what `bitrix24` throws when there is no hook for this event
   */
  readonly record: <As extends string = Kind>() => Promise<RecordOf<As> | null>
  /**
   * With the option `onChange`: the fields that it names as they were when this handler last completed for this object;
   * `undefined` when it never did. A field is absent that was not named then, or was too long to keep.
   */
  readonly previous: Previous
}

/**
 * Handles one event. When it returns, or its promise resolves, the event is done; when it throws, the event is tried
 * again. It may see one event twice, after a crash for one, so it must be idempotent.
 */
export type Handler<Name extends string = string, Previous = LooseRecord | undefined> = (
  event: EventOf<Name>,
  context: Context<Previous, KindOf<Name>>,
) => unknown

/** What `onChange` may name for events of this name: where the record's fields are known one of them, else any. */
export type FieldOf<Name extends string> = keyof RecordOf<KindOf<Name>> & string

/** Of no fields, `undefined`. */
export type PreviousOf<Name extends string, Field extends string> = [Field] extends [never]
  ? undefined
  : { readonly [F in Field]?: RecordOf<KindOf<Name>>[F & FieldOf<Name>] } | undefined

/** How a handler is run. Times are written as in the environment: `500ms`, `30s`, `5m`, `2h`, `7d`. */
export interface HandlerOptions<Field extends string = string> {
  /**
   * Events of one object that wait when a run starts become one run, with the newest event and `context.coalesced`:
   * `true` for events of one name, `'object'` across the names of this handler.
   */
  readonly coalesce?: boolean | 'object'
  /** Wait until the object has been quiet for so long, ten times as long at most: for a burst to end. */
  readonly settle?: string
  /** Instead of `HANDLER_TIMEOUT`. */
  readonly timeout?: string
  /** Instead of `RETRY_FOR`. */
  readonly retryFor?: string
  /** Runs of this handler at once, within `CONCURRENCY`. */
  readonly concurrency?: number
  /** `'none'`: events of one object may run beside each other, in any order. */
  readonly order?: 'object' | 'none'
  /** `true`: not run for an event that only tells of its own write through `context.bitrix24`. */
  readonly ignoreOwnChanges?: boolean
  /**
   * Run only if one of these fields of the record differs from what this handler has last completed with for the object;
   * `context.previous` has those values.
   */
  readonly onChange?: readonly Field[]
  /**
   * With `onChange`: what becomes of an object that this handler has never completed for. `'run'`, the default, runs it;
   * `'remember'` only keeps the fields, so that the first run is for a real change.
   */
  readonly first?: 'run' | 'remember'
}

/** `HandlerOptions`, read: times in milliseconds, `undefined` where the environment decides. */
export interface RunOptions {
  readonly coalesce: boolean | 'object'
  readonly settle: number
  readonly timeout: number | undefined
  readonly retryFor: number | undefined
  readonly concurrency: number
  readonly order: 'object' | 'none'
  readonly ignoreOwnChanges: boolean
  readonly onChange: readonly string[] | undefined
  readonly first: 'run' | 'remember'
}

/** What `defineHandler` returns and a handler file exports as its default. */
export interface HandlerDefinition {
  readonly [definitionBrand]: true
  readonly events: readonly string[]
  readonly handle: Handler
  readonly options: RunOptions
}

// Symbol.for, so that a second copy of this package in a handlers' node_modules means the same.
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
 * @param events an event's name or a pattern in which `*` stands for any characters; upper and lower case are one
 * @throws {TypeError} when a name is none, or an option is not known to this version
 */
export function defineHandler<const Name extends EventName | (string & {}), Field extends FieldOf<Name> = never>(
  events: Name | readonly Name[],
  // The names are known from `events`. Looking for them in the union of a pattern's events as well takes seconds.
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

const longestTimeout = 86_400_000

const optionNames = new Set([
  'coalesce',
  'settle',
  'timeout',
  'retryFor',
  'concurrency',
  'order',
  'ignoreOwnChanges',
  'onChange',
  'first',
])

/** What a file without `defineHandler` gets. */
export const defaultOptions = readOptions({})

function readOptions(options: HandlerOptions): RunOptions {
  const {
    coalesce = false,
    settle = '0s',
    timeout,
    retryFor,
    concurrency = Number.POSITIVE_INFINITY,
    order = 'object',
    ignoreOwnChanges = false,
    onChange,
    first = 'run',
  } = options
  const refuse = (name: string, rule: string): never => {
    throw new TypeError(`defineHandler: ${name} must be ${rule}, got ${JSON.stringify(Reflect.get(options, name))}`)
  }
  for (const name of Object.keys(options))
    if (!optionNames.has(name))
      throw new TypeError(`defineHandler: the option "${name}" is not supported by this version`)
  const time = (name: string, text: string) => parseDuration(text) ?? refuse(name, 'a time such as 10s or 5m')
  const limit = timeout === undefined ? undefined : time('timeout', timeout)
  // As HANDLER_TIMEOUT; and Node's timers end at 24 days.
  if (limit !== undefined && (limit < 1 || limit > longestTimeout)) refuse('timeout', 'a time from 1ms to 1d')
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
    settle: time('settle', settle),
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
 * Throw it to choose when the next try is: `throw new RetryAfter('5m')`. A second is the shortest. A delay that is longer
 * than what is left of `RETRY_FOR` is refused: the error says so, and the next try comes when it would have come without.
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

/** Milliseconds, or `undefined` when the error chose none. */
export function chosenDelay(error: unknown): number | undefined {
  const delay = isBranded(error, retryBrand) ? Number((error as RetryAfter)[retryBrand]) : Number.NaN
  // Another copy of the package may have put anything there.
  return Number.isFinite(delay) ? Math.ceil(delay) : undefined
}

function isBranded(value: unknown, brand: symbol): boolean {
  return typeof value === 'object' && value !== null && brand in value
}
