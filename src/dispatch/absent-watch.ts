import type { Logger } from 'pino'
import { type AbsentHandler, findAbsent, lateReason } from './absent.ts'
import type { BrokenFile } from './load-report.ts'
import type { KnownHandler, Queue } from '../queue/queue.ts'
import { type LateFile, type LeftOut, type LoadedHandler, placeOf } from '../handler/loader.ts'
import type { Report } from './report.ts'

export interface AbsentWatchParts {
  readonly queue: Queue
  readonly handlers: readonly LoadedHandler[]
  readonly late: readonly LateFile[]
  readonly leftOut: readonly LeftOut[]
  /** HANDLER_LOAD_TIMEOUT. */
  readonly timeout: number
  readonly report: Pick<Report, 'absent' | 'load' | 'handlers'>
  readonly log: Logger
}

export interface AbsentWatch {
  /** By name. */
  readonly absent: ReadonlyMap<string, AbsentHandler>
  /** Why nothing can be followed: nobody knows the events of these. Then nothing was remembered. */
  readonly unknown: readonly string[]
  /**
   * Looks which of them are loaded after all, or forgotten by an operator.
   *
   * @param adopt is given those that are loaded
   * @returns ends that
   */
  readonly watch: (adopt: (handler: LoadedHandler) => void) => () => void
}

/** Milliseconds between two looks at whether one was forgotten. */
const interval = 2_000

/** Remembers the handlers that are loaded, and keeps an eye on those that are not. */
export async function watchAbsent(parts: AbsentWatchParts): Promise<AbsentWatch> {
  const { queue, late, timeout, report, log } = parts
  const remembered = await queue.remembered()
  const { absent: found, unknown } = findAbsent({ ...parts, remembered })
  const absent = new Map(found.map((one) => [one.name, one]))
  const loaded = [...parts.handlers]
  const broken = new Map<string, BrokenFile>(
    late.map(({ name, file }) => [name, { file, place: file, error: `it ${lateReason(timeout)}` }]),
  )
  if (unknown.length > 0) return { absent, unknown, watch: () => () => undefined }

  const tell = () => {
    report.load({ loaded: loaded.map(({ name }) => name), broken: [...broken.values()], leftOut: parts.leftOut })
    report.absent(absent.values())
  }
  const known = new Set(remembered.map(({ name }) => name))
  // Events are kept for one only while it is known.
  await queue.remember([...loaded.map(toKnown), ...found.filter(({ name }) => !known.has(name)).map(toNew)])
  tell()
  const owed = await queue.handlers()
  for (const { name, reason } of found)
    log.warn(
      { handler: name, owed: owed.get(name) ?? 0, reason },
      'a handler is not loaded; its events are kept for it',
    )

  async function look(): Promise<void> {
    const names = absent.size === 0 ? undefined : await queue.handlers()
    for (const name of absent.keys())
      if (names && !names.has(name)) {
        absent.delete(name)
        log.info({ handler: name }, 'a handler that is not loaded was forgotten')
      }
    report.absent(absent.values())
  }

  async function take(handler: LoadedHandler, adopt: (handler: LoadedHandler) => void): Promise<void> {
    // An operator may have forgotten it meanwhile.
    if (!absent.has(handler.name)) return
    // All of them: tools tell by the time which were loaded together.
    await queue.remember([...loaded, handler].map(toKnown))
    loaded.push(handler)
    adopt(handler)
    absent.delete(handler.name)
    broken.delete(handler.name)
    log.info({ handler: handler.name, events: handler.events }, 'a handler is loaded after all')
    tell()
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
    tell()
  }

  return {
    absent,
    unknown,
    watch(adopt) {
      let isOver = false
      const unlessOver = (work: () => Promise<void>) => {
        // What cannot be asked of the queue, it says by its other calls.
        if (!isOver) work().catch((error: unknown) => log.warn({ err: error }, 'a look at absent handlers failed'))
      }
      const timer = setInterval(() => unlessOver(look), interval)
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

function toKnown({ name, events, options: { order, settle, onChange } }: LoadedHandler): KnownHandler {
  return { name, events, order, settle, onChange: onChange !== undefined }
}

/** Of one that was never loaded nothing is kept that `onChange` may need. */
function toNew({ name, events, order, settle }: AbsentHandler): KnownHandler {
  return { name, events, order, settle, onChange: false }
}
