import { crmMethods } from './crm.ts'
import { asText, type Json, type JsonObject, phpDate } from './php.ts'
import type { Records } from './records.ts'
import { taskMethods } from './tasks.ts'

/** Who calls, and with what. */
export interface Call {
  readonly params: JsonObject
  readonly records: Records
  /** The incoming webhook's. */
  readonly user: number
  readonly scopes: readonly string[]
  readonly now: number
  /** Messages that were sent. */
  readonly messages: Message[]
}

export interface Message {
  readonly dialogId: string
  readonly text: string
  readonly from: number
}

export interface Answer {
  readonly result: Json
  readonly total?: number
  readonly next?: number
}

export type Method = (call: Call) => Answer

const person = (id: number) => ({ ID: String(id), ACTIVE: true, NAME: `User ${id}`, LAST_NAME: '', UF_DEPARTMENT: [1] })

/** Every method but `batch`, which calls the others. */
export const methods: ReadonlyMap<string, Method> = new Map<string, Method>([
  ...Object.entries(crmMethods),
  ...Object.entries(taskMethods),
  ['profile', ({ user }) => ({ result: { ...person(user), ADMIN: true } })],
  ['user.current', ({ user }) => ({ result: person(user) })],
  ['scope', ({ scopes }) => ({ result: scopes })],
  ['server.time', ({ now }) => ({ result: phpDate(now) })],
  ['method.get', ({ params }) => ({ result: tellMethod(asText(params['name'] ?? params['NAME'])) })],
  ['im.message.add', sendMessage],
])

function tellMethod(name: string) {
  const isExisting = methods.has(name) || name === 'batch'
  return { isExisting, isAvailable: isExisting }
}

function sendMessage({ params, messages, user }: Call): Answer {
  messages.push({ dialogId: asText(params['DIALOG_ID']), text: asText(params['MESSAGE']), from: user })
  return { result: messages.length }
}

/** What an incoming webhook must be granted to call the method; `undefined` for what every incoming webhook may. */
export function scopeOf(method: string): string | undefined {
  const scopes = { crm: 'crm', tasks: 'task', im: 'im', user: 'user' }
  const first = method.split('.')[0] ?? ''
  return Object.entries(scopes).find(([prefix]) => prefix === first)?.[1]
}
