import { createHash } from 'node:crypto'
import type { LooseRecord } from '../bitrix24/record.ts'
import { isDeletion } from '../events/catalogue.ts'
import { nearNames } from '../events/nearest.ts'
import { FinalError } from '../handler/handler.ts'
import type { Delivery, Queue, Seen, SeenFields } from '../queue/queue.ts'

export interface OnChangeQuestion {
  readonly delivery: Delivery
  /** What the handler's `onChange` names. */
  readonly names: readonly string[]
  /** What becomes of an object that the handler has never completed for. */
  readonly first: 'run' | 'remember'
  readonly queue: Pick<Queue, 'seen' | 'doubt'>
  /** The record as the handler gets it. */
  readonly readRecord: () => Promise<LooseRecord | null>
}

/** What is to become of a delivery, and what `done` is to keep then. */
export type Verdict =
  | { readonly verdict: 'run'; readonly seen: SeenFields | null; readonly previous: LooseRecord | undefined }
  | { readonly verdict: 'unchanged'; readonly seen: undefined }
  | { readonly verdict: 'remembered'; readonly seen: SeenFields }
  | { readonly verdict: 'gone'; readonly seen: null }

/** A longer text is kept as its hash: what is kept stays for as long as its object lives. */
const longestValue = 8 * 1024
/** No JSON begins so. */
const hashed = 'sha256:'

/**
 * Whether any of the fields differs from what the handler has last completed with. A run that began and did not complete
 * may have done half of its work: after it the next one runs, also when the fields are back to what they were.
 *
 * @throws {FinalError} where the record does not have such a field
 */
export async function judgeChange(question: OnChangeQuestion): Promise<Verdict> {
  const { delivery, names, first, queue, readRecord } = question
  const { event } = delivery
  let fields: SeenFields | null = null
  if (!isDeletion(event.event)) {
    const record = await readRecord()
    if (record === null) return { verdict: 'gone', seen: null }
    fields = readFields(record, names, event.object)
  }
  const before = await queue.seen(delivery)
  if (before === undefined && fields && first === 'remember') return { verdict: 'remembered', seen: fields }
  if (before && fields && isSame(before, fields)) return { verdict: 'unchanged', seen: undefined }
  if (before?.isInDoubt === false) await queue.doubt(delivery)
  return { verdict: 'run', seen: fields, previous: before && previousOf(before.fields, names) }
}

/**
 * For an event that is only of the handler's own write. What it left in a field is not kept, because it may have
 * overtaken somebody's change; but that it left something is, else who takes it back would have changed nothing.
 *
 * @throws {FinalError} where the record does not have such a field
 */
export async function noteOwnChange({ delivery, names, queue, readRecord }: OnChangeQuestion): Promise<void> {
  const record = await readRecord()
  const before = await queue.seen(delivery)
  if (record === null || before === undefined || before.isInDoubt) return
  if (!isSame(before, readFields(record, names, delivery.event.object))) await queue.doubt(delivery)
}

/** Keys in one order, because PHP's is that of the moment. */
function readFields(record: LooseRecord, names: readonly string[], object = 'the record'): SeenFields {
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
  return text.length <= longestValue ? text : hashed + createHash('sha256').update(text).digest('base64')
}

function isSame({ fields, isInDoubt }: Seen, now: SeenFields): boolean {
  return !isInDoubt && Object.entries(now).every(([name, text]) => Object.hasOwn(fields, name) && fields[name] === text)
}

/** What is kept of the fields; of one whose value is too long only that it was something. */
function previousOf(fields: SeenFields, names: readonly string[]): LooseRecord | undefined {
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
