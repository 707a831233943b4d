import { type FormValue, isForm } from '../../../src/events/form.ts'
import { decodeForm } from '../../../src/intake/form.ts'
import type { Answer } from './methods.ts'
import { asText, isJsonObject, type Json, type JsonObject, phpArray, phpEntries } from './php.ts'
import { RestError } from './rest-error.ts'

/** A command's answer, and the `time` of it where the portal gives one. */
export type RunCommand = (method: string, params: JsonObject) => Answer & { readonly time?: JsonObject }

const maxCommands = 50

/**
 * One command after the other, each may use the results before it as `$result[key][field]`
 * (https://apidocs.bitrix24.com/settings/how-to-call-rest-api/batch.html). Errors are inside, the answer is a 200.
 */
export function runBatch(params: JsonObject, run: RunCommand): Json {
  const commands = phpEntries(params['cmd'])
  if (commands.length > maxCommands) throw RestError.system('ERROR_BATCH_LENGTH_EXCEEDED')
  const isHalting = ['1', 'true', 'Y'].includes(asText(params['halt']))
  const results = new Map<string, Json>()
  const errors = new Map<string, Json>()
  const totals = new Map<string, Json>()
  const nexts = new Map<string, Json>()
  const times = new Map<string, Json>()
  for (const [key, command] of commands) {
    const [method = '', query = ''] = splitOnce(asText(command), '?')
    try {
      if (method.toLowerCase() === 'batch') throw RestError.system('ERROR_BATCH_METHOD_NOT_ALLOWED')
      const { result, total, next, time } = run(method, decodeQuery(query, results))
      results.set(key, result)
      if (total !== undefined) totals.set(key, total)
      if (next !== undefined) nexts.set(key, next)
      if (time) times.set(key, time)
    } catch (error) {
      if (!(error instanceof RestError)) throw error
      errors.set(key, error.body)
      if (isHalting) break
    }
  }
  return {
    result: phpArray(results),
    result_error: phpArray(errors),
    result_total: phpArray(totals),
    result_next: phpArray(nexts),
    result_time: phpArray(times),
  }
}

function splitOnce(text: string, sign: string): string[] {
  const at = text.indexOf(sign)
  return at < 0 ? [text] : [text.slice(0, at), text.slice(at + 1)]
}

function decodeQuery(query: string, results: ReadonlyMap<string, Json>): JsonObject {
  const filled = fill(decodeForm(query), results)
  return isJsonObject(filled) ? filled : {}
}

function fill(value: FormValue, results: ReadonlyMap<string, Json>): Json {
  if (Array.isArray(value)) return value.map((one) => fill(one, results))
  if (isForm(value)) return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, fill(one, results)]))
  const whole = /^\$result((?:\[[^\]]*\])+)$/.exec(value)
  if (whole) return lookUp(whole[1] ?? '', results)
  return value.replace(/\$result((?:\[[^\]]*\])+)/g, (_, path: string) => asText(lookUp(path, results)))
}

/** `[key][field][0]` in what came before; null where it leads nowhere. */
function lookUp(path: string, results: ReadonlyMap<string, Json>): Json {
  const [key = '', ...fields] = [...path.matchAll(/\[([^\]]*)\]/g)].map(([, name = '']) => name)
  let value = results.get(key)
  for (const field of fields) value = Object.fromEntries(phpEntries(value))[field]
  return value ?? null
}
