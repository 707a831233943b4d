import qs from 'qs'
import { isObject } from '../lib/is-object.ts'
import { readRefusal } from './answer.ts'
import { Bitrix24Error } from './bitrix24-error.ts'
import type { Settled } from './client.ts'
import type { Hook } from './incoming-webhook.ts'
import type { Command } from './parameters.ts'

/** https://apidocs.bitrix24.com/settings/how-to-call-rest-api/batch.html */
export const mostCommands = 50

/** `{ deal: 'crm.item.get?entityTypeId=2&id=662' }`, as PHP's http_build_query would, with an empty text for null. */
export function toQueries(commands: Iterable<readonly [key: string, Command]>): Record<string, string> {
  return Object.fromEntries(
    Array.from(commands, ([key, { method, params }]) => [
      key,
      // PHP takes the text "false" for true.
      `${method}?${qs.stringify(params, { filter: (_, value: unknown) => (typeof value === 'boolean' ? Number(value) : value) })}`,
    ]),
  )
}

const withoutCode = { code: 'NO_CODE', description: 'no description' }

export interface ResultsParts {
  readonly result: unknown
  readonly commands: Iterable<readonly [key: string, Pick<Command, 'method'>]>
  readonly hook: Hook
}

/**
 * What a batch answered, by command, in the order of the commands; those that a halt left out are missing.
 *
 * An error may have no code, such as crm.deal.get's for what is not there.
 */
export function readResults({ result, commands, hook }: ResultsParts) {
  const settled = new Map<string, Settled>()
  const times = new Map<string, unknown>()
  for (const [key, { method }] of commands) {
    const time = at(at(result, 'result_time'), key)
    if (time !== undefined) times.set(key, time)
    const error = at(at(result, 'result_error'), key)
    const value = at(at(result, 'result'), key)
    if (error !== undefined) {
      const refused = readRefusal(typeof error === 'string' ? { error } : error) ?? withoutCode
      settled.set(key, { error: new Bitrix24Error({ hook, method, status: 200, command: key, ...refused }) })
    } else if (value !== undefined) settled.set(key, { result: value })
  }
  return { settled, times }
}

/** PHP writes a list where the keys are 0, 1, 2, …, and an empty one for nothing. */
function at(value: unknown, key: string): unknown {
  return isObject(value) && Object.hasOwn(value, key) ? value[key] : undefined
}
