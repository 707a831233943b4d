import qs from 'qs'
import { isObject } from '../lib/is-object.ts'
import { textOf } from './answer.ts'
import type { Command } from './parameters.ts'
import { isRead } from './reads.ts'
import type { Envelope, Send } from './transport.ts'

/** The id of an object that a dry run did not create: no portal has so many. */
const madeUpId = 999_999_999

/** A batch command, parsed from the request. */
export interface BatchCommand extends Command {
  readonly key: string
  /** The command as it is sent: `crm.deal.get?id=662`. */
  readonly text: string
}

/** Returns the commands in a batch's parameters, in their order. */
export function commandsOf(params: object): BatchCommand[] {
  const { cmd } = { cmd: undefined, ...params }
  return Object.entries(isObject(cmd) ? cmd : {}).map(([key, value]) => {
    const text = textOf(value)
    const [method = '', query = ''] = text.split(/\?(.*)/s)
    return { key, text, method, params: qs.parse(query, { depth: 16, parameterLimit: 10_000, arrayLimit: 1_000 }) }
  })
}

/** Returns the commands that a dry run does not send: writes, and commands that use the results of writes. */
export function withheldOf(commands: readonly BatchCommand[]): ReadonlySet<string> {
  const withheld = new Set<string>()
  for (const { key, method, text } of commands) {
    const uses = [...decodeURIComponent(text).matchAll(/\$result\[([^\]]*)\]/g)].map(([, name = '']) => name)
    if (!isRead(method) || uses.some((name) => withheld.has(name))) withheld.add(key)
  }
  return withheld
}

/** Sends reads, and answers writes itself, as the portal might have. */
export function withholdWrites(send: Send): Send {
  return async (method, params) => {
    if (method === 'batch') return sendReads(send, params)
    return isRead(method) ? send(method, params) : { result: madeUpResult({ method, params: { ...params } }) }
  }
}

async function sendReads(send: Send, params: object): Promise<Envelope> {
  const commands = commandsOf(params)
  const withheld = withheldOf(commands)
  if (withheld.size === 0) return send('batch', params)
  const reads = commands.filter(({ key }) => !withheld.has(key))
  const cmd = Object.fromEntries(reads.map(({ key, text }) => [key, text]))
  const answered = reads.length > 0 ? await send('batch', { ...params, cmd }) : { result: {} }
  const { result, result_error: failed, ...rest } = { result: {}, result_error: {}, ...Object(answered.result) }
  const failures: object = Object(failed)
  const results = { ...Object(result) }
  const { halt } = { halt: 0, ...params }
  for (const command of commands) {
    // The portal would have stopped before this command.
    if (Number(halt) === 1 && Object.hasOwn(failures, command.key)) break
    if (withheld.has(command.key)) results[command.key] = madeUpResult(command)
  }
  return { ...answered, result: { ...rest, result: results, result_error: failures } }
}

/** Returns `null` for a read whose result is unknown. */
function madeUpResult({ method, params }: Command): unknown {
  if (isRead(method)) return null
  const name = method.toLowerCase()
  const [, item, verb] = /^(?:crm\.(item)|tasks\.(task))\.(add|update)$/.exec(name)?.filter((part) => part) ?? []
  if (item !== undefined) {
    const id = verb === 'add' ? madeUpId : (params['id'] ?? params['taskId'])
    return { [item]: { ...Object(params['fields']), id: item === 'task' ? String(id) : Number(id) } }
  }
  return name.endsWith('.add') ? madeUpId : true
}
