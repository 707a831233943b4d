import type { Logger } from 'pino'
import { placeOf } from '../handler/error-place.ts'
import type { LeftOut } from '../handler/handler-files.ts'
import type { LateFile, LoadedHandler } from '../handler/loader.ts'
import type { KnownHandler, Queue } from '../queue/queue.ts'
import { type AbsentHandler, findAbsent, lateReason } from './absent.ts'
import type { BrokenFile } from './load-report.ts'
import type { Report } from './report.ts'

export interface AbsentWatchDeps {
  readonly queue: Queue
  readonly handlers: readonly LoadedHandler[]
  readonly late: readonly LateFile[]
  readonly leftOut: readonly LeftOut[]
  /** HANDLER_LOAD_TIMEOUT in milliseconds. */
  readonly timeout: number
  readonly report: Pick<Report, 'absent' | 'load' | 'handlers'>
  readonly log: Logger
}

/** Milliseconds between two checks whether a handler was forgotten. */
const interval = 2_000

/** Registers the handlers that are loaded, and watches those that are not. */
export async function watchAbsent(deps: AbsentWatchDeps) {
  const { queue, late, timeout, report, log } = deps
  const registeredHandlers = await queue.handlers()
  const { absent: found, unknown } = findAbsent({ ...deps, registeredHandlers })
  const absent = new Map(found.map((one) => [one.name, one]))
  const loaded = [...deps.handlers]
  const broken = new Map<string, BrokenFile>(
    late.map(({ name, file }) => [name, { file, place: file, error: `it ${lateReason(timeout)}` }]),
  )
  if (unknown.length > 0) return { absent, unknown, watch: () => () => {} }

  const reportAll = () => {
    report.load({ loaded: loaded.map(({ name }) => name), broken: [...broken.values()], leftOut: deps.leftOut })
    report.absent(absent.values())
  }
  const known = new Set(registeredHandlers.map(({ name }) => name))
  // The queue keeps events for a handler only while the handler is registered.
  await queue.registerHandlers([...loaded.map(toKnown), ...found.filter(({ name }) => !known.has(name)).map(toNew)])
  reportAll()
  const pending = new Map((await queue.handlers()).map((one) => [one.name, one.pending]))
  for (const { name, reason } of found)
    log.warn(
      { handler: name, pending: pending.get(name) ?? 0, reason },
      'a handler is not loaded; its events are kept for it',
    )

  async function check(): Promise<void> {
    const names = absent.size === 0 ? undefined : new Set((await queue.handlers()).map(({ name }) => name))
    for (const name of absent.keys())
      if (names && !names.has(name)) {
        absent.delete(name)
        log.info({ handler: name }, 'a handler that is not loaded was forgotten')
      }
    report.absent(absent.values())
  }

  async function take(handler: LoadedHandler, adopt: (handler: LoadedHandler) => void): Promise<void> {
    // An operator may have forgotten the handler meanwhile.
    if (!absent.has(handler.name)) return
    // Every handler is registered again: tools recognise by the time which handlers were loaded together.
    await queue.registerHandlers([...loaded, handler].map(toKnown))
    loaded.push(handler)
    adopt(handler)
    absent.delete(handler.name)
    broken.delete(handler.name)
    log.info({ handler: handler.name, events: handler.events }, 'a handler is loaded after all')
    reportAll()
  }

  async function giveUp({ name, file }: LateFile, error: unknown): Promise<void> {
    const at = await placeOf(error, file)
    log.error({ file, at, err: error }, 'a handler cannot be loaded')
    const one = absent.get(name)
    if (one === undefined) return
    absent.set(name, {
      ...one,
      reason: `the handler ${name} cannot be loaded; its events are kept for it: ${at}: ${String(error)}`,
    })
    broken.set(name, { file, place: at, error: String(error) })
    reportAll()
  }

  return {
    /** The handlers that are not loaded, by name. */
    absent: absent as ReadonlyMap<string, AbsentHandler>,
    /** Why the journal cannot be followed: which events these handlers handle is unknown. Then none was registered. */
    unknown,
    /**
     * Watches for absent handlers that load after all, and for those that an operator forgets.
     *
     * @param adopt receives each handler that loads
     * @returns a function that stops watching
     */
    watch: (adopt: (handler: LoadedHandler) => void) => {
      let isOver = false
      const unlessOver = (work: () => Promise<void>) => {
        // A warning is enough: a queue that does not work fails in its other calls, too.
        if (!isOver) work().catch((error: unknown) => log.warn({ err: error }, 'a look at absent handlers failed'))
      }
      const timer = setInterval(() => unlessOver(check), interval)
      for (const file of late)
        file.loading.then(
          (handler) => unlessOver(() => take(handler, adopt)),
          (error: unknown) => unlessOver(() => giveUp(file, error)),
        )
      return () => {
        isOver = true
        clearInterval(timer)
      }
    },
  }
}

function toKnown({ name, events, options: { order, debounce, onChange } }: LoadedHandler): KnownHandler {
  return { name, events, order, debounce, onChange: onChange !== undefined }
}

/** A handler that was never loaded has no snapshots, so `onChange` is false. */
function toNew({ name, events, order, debounce }: AbsentHandler): KnownHandler {
  return { name, events, order, debounce, onChange: false }
}
