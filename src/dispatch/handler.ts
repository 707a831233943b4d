import type { Logger } from 'pino'
import { parseDuration } from '../config.ts'
import type { Event } from '../intake/event.ts'

/** What a handler gets beside the event. */
export interface Context {
  /** Writes to the receiver's diagnostic log, marked with handler and event. */
  readonly log: Logger
  /** Aborts when the run takes longer than `HANDLER_TIMEOUT`; pass it to `fetch`. */
  readonly signal: AbortSignal
  /** 1 on the first run of this event, 2 on the first retry, … */
  readonly attempt: number
}

/**
 * Handles one event. When it returns, or its promise resolves, the event is done; when it throws, the event is tried
 * again. It may see one event twice, after a crash for one, so it must be idempotent.
 */
export type Handler = (event: Event, context: Context) => unknown

/** How a handler is run; there is nothing to choose yet. */
export type HandlerOptions = Readonly<Record<string, never>>

/** What `defineHandler` returns and a handler file exports as its default. */
export interface HandlerDefinition {
  readonly [definitionBrand]: true
  readonly events: readonly string[]
  readonly handle: Handler
  readonly options: HandlerOptions
}

// Symbol.for, so that a second copy of this package in a handlers' node_modules means the same.
const definitionBrand = Symbol.for('bitrix24-webhook-receiver.handler')
const finalBrand = Symbol.for('bitrix24-webhook-receiver.final')
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
  for (const option of Object.keys(options))
    throw new TypeError(`defineHandler: the option "${option}" is not supported by this version`)
  return { [definitionBrand]: true, events: names, handle, options }
}

export function isDefinition(value: unknown): value is HandlerDefinition {
  return isBranded(value, definitionBrand)
}

/** Throw it when another try cannot help: the delivery is dead at once. */
export class FinalError extends Error {
  override readonly name = 'FinalError'
  readonly [finalBrand] = true
}

/** Throw it to choose when the next try is: `throw new RetryAfter('5m')`. */
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

export function isFinal(error: unknown): boolean {
  return isBranded(error, finalBrand)
}

/** Milliseconds, or `undefined` when the error chose none. */
export function chosenDelay(error: unknown): number | undefined {
  return isBranded(error, retryBrand) ? Number((error as RetryAfter)[retryBrand]) : undefined
}

function isBranded(value: unknown, brand: symbol): boolean {
  return typeof value === 'object' && value !== null && brand in value
}
