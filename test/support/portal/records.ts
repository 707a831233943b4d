import { isDeepStrictEqual } from 'node:util'
import type { Json, JsonObject } from './php.ts'

/** An `entityTypeId` of the CRM, or what has none. */
export type RecordType = number | 'activity' | 'task'

export interface PortalRecord {
  readonly type: RecordType
  readonly id: number
  /** camelCase as crm.item has them; the portal's own fields under their `UF_…`. */
  readonly fields: JsonObject
  /** Unix milliseconds; what the portal returns has whole seconds. */
  readonly createdTime: number
  readonly updatedTime: number
  readonly createdBy: number
  readonly updatedBy: number
}

export interface Change {
  readonly what: 'ADD' | 'UPDATE' | 'DELETE'
  readonly type: RecordType
  readonly id: number
}

export type Records = ReturnType<typeof createRecords>

/** What a portal keeps; each write is passed to `onChange`. */
export function createRecords({ now, onChange }: { now: () => number; onChange: (change: Change) => void }) {
  const all = new Map<string, PortalRecord>()
  const lastIds = new Map<RecordType, number>()
  const key = (type: RecordType, id: number) => `${type}:${id}`

  return {
    get: (type: RecordType, id: number) => all.get(key(type, id)),

    /** By id, ascending. */
    list: (type: RecordType) => [...all.values()].filter((record) => record.type === type).sort((a, b) => a.id - b.id),

    add(type: RecordType, fields: JsonObject, by: number, wantedId?: number): PortalRecord {
      const id = wantedId ?? (lastIds.get(type) ?? 0) + 1
      if (all.has(key(type, id))) throw new Error(`${key(type, id)} is there already`)
      lastIds.set(type, Math.max(id, lastIds.get(type) ?? 0))
      const time = now()
      const record = { type, id, fields, createdTime: time, updatedTime: time, createdBy: by, updatedBy: by }
      all.set(key(type, id), record)
      onChange({ what: 'ADD', type, id })
      return record
    },

    /**
     * Saving what is there already changes nothing and fires nothing, as crm.item.update promises; `always`, as the
     * methods do that do not promise it.
     */
    update(
      type: RecordType,
      id: number,
      fields: JsonObject,
      by: number,
      { always = false } = {},
    ): PortalRecord | undefined {
      const before = all.get(key(type, id))
      if (!before) return undefined
      const changed = Object.entries(fields).filter(([name, value]) => !isSame(before.fields[name], value))
      if (changed.length === 0 && !always) return before
      const after = { ...before, fields: { ...before.fields, ...fields }, updatedTime: now(), updatedBy: by }
      all.set(key(type, id), after)
      onChange({ what: 'UPDATE', type, id })
      return after
    },

    remove(type: RecordType, id: number): boolean {
      if (!all.delete(key(type, id))) return false
      onChange({ what: 'DELETE', type, id })
      return true
    },
  }
}

function isSame(before: Json | undefined, after: Json): boolean {
  return isDeepStrictEqual(before ?? null, after)
}
