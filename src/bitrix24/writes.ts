import { crmEventsOf, crmTypeByName, minSmartProcessId } from '../events/crm-types.ts'
import { isObject } from '../lib/is-object.ts'
import { textOf } from './answer.ts'

/** The effect of a call on an object, with the names of `src/events/catalogue.ts`. */
export interface Write {
  readonly object: string
  /**
   * The event that Bitrix24 fires for the call, without the type suffix for smart processes. `undefined` if no fired
   * event can be compared with the object's last change: a deleted object has none, and a comment does not change its
   * task.
   */
  readonly event: string | undefined
}

export interface AnsweredCommand {
  readonly method: string
  readonly params: Readonly<Record<string, unknown>>
  readonly result: unknown
}

type Verb = 'add' | 'update' | 'delete'
/** The kind of an object, as the prefix of its id, and the beginning of its events' names. */
interface Kind {
  readonly object: string
  readonly events: string
}

const activity = { object: 'activity', events: 'ONCRMACTIVITY' }
const task = { object: 'task', events: 'ONTASK' }
const timelineComment = { object: 'timelinecomment', events: 'ONCRMTIMELINECOMMENT' }

/** Neither product rows nor crm.item.* name the other types. */
const ownerTypes = [...crmTypeByName.values()].filter(({ short }) => short !== undefined)

const crmKind = (kind: string): Kind => ({ object: kind, events: crmEventsOf(kind) })

function kindOfType(entityTypeId: number): Kind | undefined {
  const kind = ownerTypes.find(({ id }) => id === entityTypeId)?.kind
  if (kind !== undefined) return crmKind(kind)
  return entityTypeId >= minSmartProcessId ? crmKind(`item:${entityTypeId}`) : undefined
}

type Rule = readonly [pattern: RegExp, read: (command: AnsweredCommand, names: readonly string[]) => Write | undefined]

const rules: readonly Rule[] = [
  [
    /^crm\.item\.(add|update|delete)$/,
    (command, [verb]) => write(kindOfType(Number(at(command.params, 'entityTypeId'))), verb, command, 'id'),
  ],
  [
    /^crm\.(lead|deal|contact|company|quote|invoice)\.(add|update|delete)$/,
    (command, [kind = '', verb]) => write(crmKind(kind), verb, command, 'id'),
  ],
  // Links between the objects, and product rows, which may change the sum.
  [
    /^crm\.(lead|deal|contact|company|quote)\.(?:(?:contact|company)\.(?:add|delete|items\.set|items\.delete)|productrows\.set)$/,
    (command, [kind = '']) => write(crmKind(kind), 'update', { ...command, result: undefined }, 'id'),
  ],
  [/^crm\.item\.productrow\.(?:set|add|update|delete)$/, (command) => writeToOwner(command)],
  // Not the deal or contact that it belongs to, because the call fires no event for that one.
  [
    /^crm\.activity\.(?:todo\.|configurable\.)?(add|update|delete)$/,
    (command, [verb]) => write(activity, verb, command, 'id'),
  ],
  [/^crm\.timeline\.comment\.(add|update|delete)$/, (command, [verb]) => write(timelineComment, verb, command, 'id')],
  [/^tasks\.task\.(add|update|delete)$/, (command, [verb]) => write(task, verb, command, 'taskId')],
  [
    /^tasks\.task\.(?:complete|renew|start|pause|defer|approve|disapprove|delegate)$/,
    (command) => write(task, 'update', command, 'taskId'),
  ],
  [
    /^task\.commentitem\.(?:add|update|delete)$/,
    (command) => withoutEvent(write(task, 'update', { ...command, result: undefined }, 'taskId')),
  ],
]

/** Returns what an answered call wrote; `undefined` if the method is unknown. */
export function writeOf(command: AnsweredCommand): Write | undefined {
  // crm.Deal.Update is crm.deal.update.
  const method = command.method.toLowerCase()
  for (const [pattern, read] of rules) {
    const [found, ...names] = pattern.exec(method) ?? []
    if (found !== undefined) return read(command, names)
  }
  return undefined
}

function write(
  kind: Kind | undefined,
  verb: string | undefined,
  { params, result }: AnsweredCommand,
  idName: string,
): Write | undefined {
  // In a batch the id may be a `$result[…]` reference. Then the answer has the id.
  const id = verb === 'add' ? idOf(result) : (idText(at(params, idName) ?? at(params, 'id')) ?? idOf(result))
  if (kind === undefined || id === undefined) return undefined
  return { object: `${kind.object}:${id}`, event: eventOf(kind, verb as Verb) }
}

function eventOf({ events }: Kind, verb: Verb): string | undefined {
  return verb === 'delete' ? undefined : `${events}${verb.toUpperCase()}`
}

/** Product rows name their owner: `D` for a deal, `T80` for the smart process 128. */
function writeToOwner({ method, params, result }: AnsweredCommand): Write | undefined {
  const row = [at(params, 'fields'), at(result, 'productRow'), params].find((one) => at(one, 'ownerId') !== undefined)
  const short = textOf(at(row, 'ownerType')).toUpperCase()
  const named = ownerTypes.find((type) => type.short === short)
  const entityTypeId = named?.id ?? (/^T[0-9A-F]+$/.test(short) ? Number.parseInt(short.slice(1), 16) : 0)
  const owner = { method, params: { id: at(row, 'ownerId') }, result: undefined }
  return write(kindOfType(entityTypeId), 'update', owner, 'id')
}

function withoutEvent(one: Write | undefined): Write | undefined {
  return one && { ...one, event: undefined }
}

/** The result is the id itself, or an object with the id, under a name such as `item`, `task` or `activity`. */
function idOf(result: unknown): string | undefined {
  const [inner] = isObject(result) ? Object.values(result).filter(isObject) : []
  return idText(result) ?? idText(at(result, 'id')) ?? idText(at(inner, 'id'))
}

function idText(value: unknown): string | undefined {
  const text = textOf(value)
  return /^[1-9]\d*$/.test(text) ? text : undefined
}

/** Some methods expect `id` and some `ID`, and many accept both. */
function at(value: unknown, name: string): unknown {
  if (!isObject(value)) return undefined
  const wanted = name.toLowerCase()
  return Object.entries(value).find(([key]) => key.toLowerCase() === wanted)?.[1]
}
