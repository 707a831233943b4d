import { createHash } from 'node:crypto'
import type { LooseRecord } from '../bitrix24/record.ts'
import { isDeletion } from '../events/catalogue.ts'
import { nearNames } from '../events/nearest.ts'
import { FinalError } from '../handler/handler.ts'
import type { Delivery, Queue, Snapshot, SnapshotFields } from '../queue/queue.ts'

export interface OnChangeQuestion {
  readonly delivery: Delivery
  /** The field names in the handler's `onChange`. */
  readonly names: readonly string[]
  /** What to do with an object for which the handler has never completed. */
  readonly first: 'run' | 'remember'
  readonly queue: Pick<Queue, 'snapshot' | 'markDirty'>
  /** Reads the record that the handler gets. */
  readonly readRecord: () => Promise<LooseRecord | null>
}

/** What to do with a delivery, and the snapshot that `done` then stores. */
export type Verdict =
  | { readonly verdict: 'run'; readonly snapshot: SnapshotFields | null; readonly previous: LooseRecord | undefined }
  | { readonly verdict: 'unchanged'; readonly snapshot: undefined }
  | { readonly verdict: 'remembered'; readonly snapshot: SnapshotFields }
  | { readonly verdict: 'gone'; readonly snapshot: null }

/** Characters. A longer text is stored as its hash, because a snapshot stays for as long as its object exists. */
const maxValueLength = 8 * 1024
/** No JSON text begins with this. */
const hashed = 'sha256:'

/**
 * Decides whether any of the fields differs from the snapshot of the handler's last completed run. A run that began and
 * did not complete may have done half of its work: the next one runs even if the fields are back to their old values.
 *
 * @throws {FinalError} if the record does not have such a field
 */
export async function judgeChange(question: OnChangeQuestion): Promise<Verdict> {
  const { delivery, names, first, queue, readRecord } = question
  const { event } = delivery
  let fields: SnapshotFields | null = null
  if (!isDeletion(event.event)) {
    const record = await readRecord()
    if (record === null) return { verdict: 'gone', snapshot: null }
    fields = readFields(record, names, event.object)
  }
  const before = await queue.snapshot(delivery)
  if (before === undefined && fields && first === 'remember') return { verdict: 'remembered', snapshot: fields }
  if (before && fields && isSame(before, fields)) return { verdict: 'unchanged', snapshot: undefined }
  if (before?.isDirty === false) await queue.markDirty(delivery)
  return { verdict: 'run', snapshot: fields, previous: before && previousOf(before.fields, names) }
}

/**
 * Handles an event that only reports the handler's own write. The new value is not stored, because the write may
 * have overtaken a user's change. The snapshot is marked dirty instead: otherwise a user who restores the old
 * value would seem to have changed nothing.
 *
 * @throws {FinalError} if the record does not have such a field
 */
export async function noteOwnChange({ delivery, names, queue, readRecord }: OnChangeQuestion): Promise<void> {
  const record = await readRecord()
  const before = await queue.snapshot(delivery)
  if (record === null || before === undefined || before.isDirty) return
  if (!isSame(before, readFields(record, names, delivery.event.object))) await queue.markDirty(delivery)
}

/** Sorts the keys of objects, because the order in which PHP sends them varies. */
function readFields(record: LooseRecord, names: readonly string[], object = 'the record'): SnapshotFields {
  const missing = names.filter((name) => !Object.hasOwn(record, name))
  if (missing.length > 0) throw new FinalError(missing.map((name) => explainMissing(name, record, object)).join('; '))
  return Object.fromEntries(names.map((name) => [name, textOf(record[name])]))
}

function textOf(value: unknown): string {
  const text = JSON.stringify(value, (_, inner: unknown) =>
    typeof inner === 'object' && inner !== null && !Array.isArray(inner)
      ? Object.fromEntries(Object.entries(inner).sort(([a], [b]) => (a < b ? -1 : 1)))
      : inner,
  )
  return text.length <= maxValueLength ? text : hashed + createHash('sha256').update(text).digest('base64')
}

function isSame({ fields, isDirty }: Snapshot, now: SnapshotFields): boolean {
  return !isDirty && Object.entries(now).every(([name, text]) => Object.hasOwn(fields, name) && fields[name] === text)
}

/** Returns the stored values. A value that was too long to store is left out. */
function previousOf(fields: SnapshotFields, names: readonly string[]): LooseRecord | undefined {
  const kept = Object.entries(fields).filter(([name]) => names.includes(name))
  if (kept.length === 0) return undefined
  return Object.fromEntries(
    kept
      .filter(([, text]) => !text.startsWith(hashed))
      .map(([name, text]): [string, unknown] => [name, JSON.parse(text)]),
  )
}

function explainMissing(name: string, record: LooseRecord, object: string): string {
  const near = nearNames(name, Object.keys(record))
  const names = `onChange names "${name}", and ${object} has no such field`
  return near.length > 0 ? `${names}; near it: ${near.join(', ')}` : `${names}, nor any of nearly that name`
}
