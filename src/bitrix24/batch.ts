import { isObject } from '../lib/is-object.ts'
import { httpBuildQuery, type PhpArray } from '../lib/php-query.ts'
import { readRefusal } from './answer.ts'
import { Bitrix24Error } from './bitrix24-error.ts'
import type { Settled } from './commands.ts'
import type { IncomingWebhook } from './incoming-webhook.ts'
import type { Command } from './parameters.ts'

/** https://apidocs.bitrix24.com/settings/how-to-call-rest-api/batch.html */
export const maxCommands = 50

/** PHP reads an empty text where the parameters have null. */
const queryOptions = { keepsNull: true, isRfc3986: true } as const

/** Returns `{ deal: 'crm.item.get?entityTypeId=2&id=662' }`. The parameters are plain JSON data. */
export function toQueries(commands: Iterable<readonly [key: string, Command]>): Record<string, string> {
  return Object.fromEntries(
    Array.from(commands, ([key, { method, params }]) => [
      key,
      `${method}?${httpBuildQuery(params as PhpArray, queryOptions)}`,
    ]),
  )
}

const withoutCode = { code: 'NO_CODE', description: 'no description' }

export interface ResultsDeps {
  readonly result: unknown
  readonly commands: Iterable<readonly [key: string, Pick<Command, 'method'>]>
  readonly incomingWebhook: IncomingWebhook
}

/**
 * Returns the results of a batch by command, in the order of the commands. Commands that a halt skipped are missing.
 *
 * An error may have no code, such as that of crm.deal.get for a missing deal.
 */
export function readResults({ result, commands, incomingWebhook }: ResultsDeps) {
  const results = new Map<string, Settled>()
  const times = new Map<string, unknown>()
  for (const [key, { method }] of commands) {
    const time = at(at(result, 'result_time'), key)
    if (time !== undefined) times.set(key, time)
    const error = at(at(result, 'result_error'), key)
    const value = at(at(result, 'result'), key)
    if (error !== undefined) {
      const refused = readRefusal(typeof error === 'string' ? { error } : error) ?? withoutCode
      results.set(key, { error: new Bitrix24Error({ incomingWebhook, method, status: 200, command: key, ...refused }) })
    } else if (value !== undefined) results.set(key, { result: value })
  }
  return { results, times }
}

/** PHP writes an array with the keys 0, 1, 2, … as a list, and nothing as an empty list. */
function at(value: unknown, key: string): unknown {
  return isObject(value) && Object.hasOwn(value, key) ? value[key] : undefined
}
