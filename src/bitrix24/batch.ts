import qs from 'qs'
import { isObject } from '../is-object.ts'
import { readRefusal } from './answer.ts'
import { Bitrix24Error } from './bitrix24-error.ts'
import type { Commands, Settled } from './client.ts'
import type { Hook } from './hook.ts'

/** https://apidocs.bitrix24.com/settings/how-to-call-rest-api/batch.html */
export const mostCommands = 50

/**
 * `{ deal: 'crm.item.get?entityTypeId=2&id=662' }`, as PHP's http_build_query would. What a query cannot say is left
 * out, such as an empty list.
 */
export function toCommands(commands: Commands): Record<string, string> {
  const all = Object.entries(commands)
  if (all.length === 0 || all.length > mostCommands)
    throw new TypeError(`a batch has from 1 to ${mostCommands} commands, not ${all.length}`)
  return Object.fromEntries(
    all.map(([key, [method, params = {}]]) => [
      key,
      // PHP takes the text "false" for true.
      `${method}?${qs.stringify(params, { filter: (_, value: unknown) => (typeof value === 'boolean' ? Number(value) : value) })}`,
    ]),
  )
}

const withoutCode = { code: 'NO_CODE', description: 'no description' }

/**
 * What a batch answered, by command, in the order of the commands; those that a halt left out are missing.
 *
 * Not by the SDK's reading: that takes an error without a code, such as crm.deal.get's for what is not there, for a
 * success without a result.
 */
export function readResults({ result, commands, hook }: { result: unknown; commands: Commands; hook: Hook }) {
  const settled = new Map<string, Settled>()
  const times = new Map<string, unknown>()
  for (const [key, [method]] of Object.entries(commands)) {
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
