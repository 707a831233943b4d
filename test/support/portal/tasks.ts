import type { Call, Method } from './methods.ts'
import { page } from './paging.ts'
import { asText, isJsonObject, type Json, type JsonObject, phpDate } from './php.ts'
import type { PortalRecord } from './records.ts'
import { RestError } from './rest-error.ts'

export const taskMethods: Record<string, Method> = {
  'tasks.task.get': (call) => {
    const record = call.records.get('task', idOf(call))
    // A task that is gone, or that the user may not see, is no error (tasks.task.get, "Returned Data").
    return { result: record ? { task: task(record) } : [] }
  },
  'tasks.task.list': (call) => {
    const { rows, ...counts } = page(call.records.list('task').map(task), call.params)
    return { result: { tasks: rows }, ...counts }
  },
  'tasks.task.add': (call) => ({ result: { task: task(call.records.add('task', fieldsOf(call), call.user)) } }),
  'tasks.task.update': (call) => {
    const after = call.records.update('task', idOf(call), fieldsOf(call), call.user, { always: true })
    if (!after) throw noTask()
    return { result: { task: task(after) } }
  },
  'tasks.task.delete': (call) => {
    if (!call.records.remove('task', idOf(call))) throw noTask()
    return { result: { task: true } }
  },
}

const noTask = () =>
  new RestError('ERROR_CORE', 'TASKS_ERROR_EXCEPTION_#8; Action failed; 8/TE/ACTION_FAILED_TO_BE_PROCESSED')

function idOf({ params }: Call): number {
  const id = Number(params['taskId'] ?? params['id'])
  if (!(id > 0)) throw new RestError('0', 'wrong task id')
  return id
}

/** Asked for in upper case, returned in camelCase. */
function fieldsOf({ params }: Call): JsonObject {
  const fields = params['fields']
  if (!isJsonObject(fields)) throw new RestError('100', 'Could not find value for parameter {fields} (internal error)')
  return Object.fromEntries(Object.entries(fields).map(([name, value]) => [camelName(name), value]))
}

function camelName(name: string): string {
  return name === name.toUpperCase()
    ? name.toLowerCase().replace(/_(.)/g, (_, letter: string) => letter.toUpperCase())
    : name
}

function task(record: PortalRecord): JsonObject {
  const fields = Object.entries(record.fields).map(([name, value]): [string, Json] => [
    name,
    typeof value === 'number' ? asText(value) : value,
  ])
  return {
    id: String(record.id),
    ...Object.fromEntries(fields),
    createdBy: String(record.createdBy),
    createdDate: phpDate(record.createdTime),
    changedBy: String(record.updatedBy),
    changedDate: phpDate(record.updatedTime),
  }
}
