import { basename } from 'node:path'
import { isDocumented } from '../events/catalogue.ts'
import { robotEvent } from '../events/robot.ts'
import type { LateFile, LoadedHandler } from '../handler/loader.ts'
import { matcherOf } from '../lib/pattern.ts'
import type { HandlerRecord } from '../queue/queue.ts'

/** A handler that is not loaded but may be loaded again. Its events are kept for it. */
export interface AbsentHandler {
  readonly name: string
  readonly events: readonly string[]
  readonly matches: (event: string) => boolean
  readonly order: 'object' | 'none'
  readonly debounce: number
  readonly reason: string
}

export interface AbsentDeps {
  readonly handlers: readonly LoadedHandler[]
  readonly late: readonly LateFile[]
  /** The handlers that were loaded at some time and not forgotten. */
  readonly registeredHandlers: readonly Pick<HandlerRecord, 'name' | 'events' | 'order' | 'debounce'>[]
  /** Milliseconds, for `lateReason`. */
  readonly timeout: number
}

/**
 * Returns the handlers that are not loaded. `unknown` says why others would lose events if the journal were followed:
 * which events they handle is not known.
 */
export function findAbsent({ handlers, late, registeredHandlers, timeout }: AbsentDeps): {
  readonly absent: readonly AbsentHandler[]
  readonly unknown: readonly string[]
} {
  const absent: AbsentHandler[] = []
  const unknown: string[] = []
  const loaded = new Set(handlers.map(({ name }) => name))
  const known = new Map(registeredHandlers.map((one) => [one.name, one]))
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
    const { events = byName(name), order = 'object', debounce = 0 } = known.get(name) ?? {}
    if (events === undefined) unknown.push(`${why}, and it is unknown which events it handles: ${advice}`)
    else {
      const reason = `${why}; its events are kept for it: ${advice}`
      absent.push({ name, events, matches: matcherOf(events), order, debounce, reason })
    }
  }
  return { absent, unknown }
}

export function lateReason(timeout: number): string {
  return `was not loaded within ${timeout / 1000} s (HANDLER_LOAD_TIMEOUT)`
}

/** Guesses the events of a file that was never loaded from its name. The file may handle other events, too. */
function byName(name: string): readonly string[] | undefined {
  const event = name.toUpperCase()
  return isDocumented(event) || event === robotEvent ? [event] : undefined
}
