import { messageOf } from '../lib/error-text.ts'
import { FinalError } from '../lib/final-error.ts'
import { isObject } from '../lib/is-object.ts'

/** Parameters as JSON data. Later changes that the caller makes to the original object do not affect them. */
export type PlainParams = Readonly<Record<string, unknown>>

export interface Command {
  readonly method: string
  readonly params: PlainParams
}

/** Documented parameters nest about ten levels deep. Infinite nesting must be refused before the stack overflows. */
const maxDepth = 100

/**
 * Returns a call as it is sent. Bitrix24 receives the `JSON.stringify` result of the parameters. A value that this
 * would omit or turn into `{}` by mistake, such as a promise that was not awaited, is refused.
 *
 * @param caller the public function: the error's stack begins with the code that called it
 * @throws {FinalError} naming the path of the value that cannot be sent; another attempt cannot help
 */
export function toCommand(method: unknown, params: unknown, caller: Caller): Command {
  try {
    return checkCommand(method, params)
  } catch (error) {
    throw refusalAt(error, caller)
  }
}

/** Returns a batch as it is sent, by key. Its commands are queries, which cannot express an empty list. */
export function toBatch(commands: unknown, maxCommands: number, caller: Caller): ReadonlyMap<string, Command> {
  let at = ''
  try {
    if (!isObject(commands)) throw new Refused(`the commands of a batch must be an object, not ${kindOf(commands)}`)
    const all = Object.entries(commands)
    if (all.length === 0 || all.length > maxCommands)
      throw new Refused(`a batch has from 1 to ${maxCommands} commands, not ${all.length}`)
    return new Map(
      all.map(([key, command]) => {
        at = `${JSON.stringify(key)}: `
        if (!Array.isArray(command)) throw new Refused("a command is a list: ['crm.deal.get', { id: 7 }]")
        const [method, params] = command
        const checked = checkCommand(method, params)
        for (const [name, value] of Object.entries(checked.params)) refuseEmpty(checked.method, value, pathOf('', name))
        return [key, checked]
      }),
    )
  } catch (error) {
    throw refusalAt(error, caller, at)
  }
}

/** A public function of the client. */
type Caller = (...args: never[]) => unknown

class Refused extends Error {}

function refusalAt(error: unknown, caller: Caller, at = ''): unknown {
  if (!(error instanceof Refused)) return error
  const { cause } = error
  const refusal = new FinalError(at + error.message, cause === undefined ? {} : { cause })
  Error.captureStackTrace(refusal, caller)
  return refusal
}

function checkCommand(method: unknown, params: unknown = {}): Command {
  if (typeof method !== 'string' || !/^[A-Za-z][\w.-]*$/.test(method))
    throw new Refused(`${JSON.stringify(method) ?? kindOf(method)} is not the name of a method, such as crm.deal.get`)
  if (isThenable(params)) throw new Refused(`${method}: its parameters are a promise: is an await missing?`)
  if (typeof params !== 'object' || params === null)
    throw new Refused(`${method}: its parameters must be an object, not ${kindOf(params)}`)
  const plain: unknown = JSON.parse(toJson(method, params))
  if (!isObject(plain)) throw new Refused(`${method}: its parameters must be an object, not ${kindOf(plain)}`)
  return { method, params: plain }
}

function toJson(method: string, params: object): string {
  /** From the outermost: the objects being written, and the path to each. */
  const holders: { readonly holder: unknown; readonly path: string }[] = []
  /** @param value after its `toJSON`, if it has one */
  function check(this: unknown, name: string, value: unknown): unknown {
    while (holders.length > 0 && holders.at(-1)?.holder !== this) holders.pop()
    const path =
      holders.length === 0 ? '' : pathOf(holders.at(-1)?.path ?? '', Array.isArray(this) ? Number(name) : name)
    const fault = faultOf(value, holders)
    if (fault !== undefined) throw new Refused(`${method}: ${path} ${fault}`)
    if (holders.length > maxDepth) throw new Refused(`${method}: its parameters are nested deeper than ${maxDepth}`)
    if (typeof value === 'object' && value !== null) holders.push({ holder: value, path })
    return value
  }
  try {
    return replaceLoneSurrogates(JSON.stringify(params, check) ?? 'null')
  } catch (error) {
    if (error instanceof Refused) throw error
    throw new Refused(`${method}: its parameters cannot be written as JSON: ${messageOf(error)}`, { cause: error })
  }
}

function faultOf(value: unknown, holders: readonly { readonly holder: unknown }[]): string | undefined {
  if (typeof value === 'bigint') return 'is a BigInt: make it a text or a number'
  if (typeof value === 'symbol') return 'is a symbol, which JSON does not have'
  if (isThenable(value)) return 'is a promise: is an await missing?'
  if (typeof value === 'function') return 'is a function: is a call missing?'
  if (holders.some(({ holder }) => holder === value)) return 'contains itself'
  return undefined
}

function isThenable(value: unknown): boolean {
  return typeof Object(value).then === 'function'
}

/**
 * `JSON.stringify` writes half of a surrogate pair as an escape, and no other character that way. PHP's `json_decode`
 * would refuse the whole body because of it, and Bitrix24 would continue without any parameter.
 */
function replaceLoneSurrogates(json: string): string {
  return json.replace(/\\(?:(ud[89a-f][\da-f]{2})|.)/g, (written: string, lone?: string) => (lone ? '\ufffd' : written))
}

/** Directly among the parameters, an empty list such as `select: []` means the same as no value. */
function refuseEmpty(method: string, value: unknown, path: string): void {
  if (typeof value !== 'object' || value === null) return
  for (const [name, inner] of Object.entries(value)) {
    const innerPath = pathOf(path, Array.isArray(value) ? Number(name) : name)
    if (typeof inner === 'object' && inner !== null && Object.keys(inner).length === 0)
      throw new Refused(
        `${method}: ${innerPath} is empty, which a batch cannot say: use call, or a text of no characters`,
      )
    refuseEmpty(method, inner, innerPath)
  }
}

function pathOf(path: string, name: string | number): string {
  if (typeof name === 'number') return `${path}[${name}]`
  if (!/^[A-Za-z_$][\w$]*$/.test(name)) return `${path}[${JSON.stringify(name)}]`
  return path === '' ? name : `${path}.${name}`
}

function kindOf(value: unknown): string {
  if (value === null) return 'null'
  return Array.isArray(value) ? 'a list' : `a ${typeof value}`
}
