import { basename } from 'node:path'
import { isDocumented } from '../events/catalogue.ts'
import { robotEvent } from '../events/robot.ts'
import { matcherOf } from '../lib/pattern.ts'
import type { RememberedHandler } from '../queue/queue.ts'
import type { LateFile, LoadedHandler } from '../handler/loader.ts'

/** A handler that is not loaded, though it may be again: its events are kept for it. */
export interface AbsentHandler {
  readonly name: string
  readonly events: readonly string[]
  matches(event: string): boolean
  readonly order: 'object' | 'none'
  readonly settle: number
  /** Why it is not loaded, and what to do. */
  readonly reason: string
}

export interface AbsentParts {
  readonly handlers: readonly LoadedHandler[]
  readonly late: readonly LateFile[]
  /** Those that were ever loaded, and not forgotten. */
  readonly remembered: readonly RememberedHandler[]
  /** See `lateReason`. */
  readonly timeout: number
}

/**
 * The handlers that are not loaded, and why others cannot be waited for without passing events over: nobody knows which
 * events theirs are.
 */
export function findAbsent({ handlers, late, remembered, timeout }: AbsentParts): {
  readonly absent: readonly AbsentHandler[]
  readonly unknown: readonly string[]
} {
  const absent: AbsentHandler[] = []
  const unknown: string[] = []
  const loaded = new Set(handlers.map(({ name }) => name))
  const known = new Map(remembered.map((one) => [one.name, one]))
  const lateFiles = new Map(late.map(({ name, file }) => [name, file]))
  for (const name of [...new Set([...known.keys(), ...lateFiles.keys()])].sort()) {
    if (loaded.has(name)) continue
    const file = lateFiles.get(name)
    const why =
      file === undefined
        ? `the file of the handler ${name} is gone from HANDLERS_DIR`
        : `${basename(file)} ${lateReason(timeout)}`
    const advice =
      file === undefined
        ? `put it back, or run "b24-receiver handlers forget ${name}"`
        : 'does an await at its top level never end?'
    const { events = byName(name), order = 'object', settle = 0 } = known.get(name) ?? {}
    if (events === undefined) unknown.push(`${why}, and nobody knows which events it handles: ${advice}`)
    else {
      const reason = `${why}; its events are kept for it: ${advice}`
      absent.push({ name, events, matches: matcherOf(events), order, settle, reason })
    }
  }
  return { absent, unknown }
}

/** Of a file. */
export function lateReason(timeout: number): string {
  return `was not loaded within ${timeout / 1000} s (HANDLER_LOAD_TIMEOUT)`
}

/** A file of this name that was never loaded may handle more, but that is a guess that keeps too much, not too little. */
function byName(name: string): readonly string[] | undefined {
  const event = name.toUpperCase()
  return isDocumented(event) || event === robotEvent ? [event] : undefined
}
