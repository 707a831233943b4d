import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { pathToFileURL } from 'node:url'
import { isDocumented } from '../events/catalogue.ts'
import { matcherOf } from '../lib/pattern.ts'
import { placeOf } from './error-place.ts'
import { defaultOptions, type Handler, isDefinition, type RunOptions } from './handler.ts'
import { HandlersError, handlerFiles, type LeftOut, nameOf, type Problem } from './handler-files.ts'

export interface LoadedHandler {
  /** The file's name without its extension. Deliveries refer to the handler by it. */
  readonly name: string
  readonly file: string
  /** Names and patterns, in upper case. */
  readonly events: readonly string[]
  readonly matches: (event: string) => boolean
  readonly handle: Handler
  readonly options: RunOptions
  /** Closes what the file opened. Called before the process ends. */
  readonly dispose?: () => unknown
}

/** The file is a module for other files: it has exports, but none that a handler has. */
class NoHandlerError extends TypeError {
  override readonly name = 'NoHandlerError'
}

/** A file that was not loaded within the timeout. */
export interface LateFile {
  readonly name: string
  readonly file: string
  /** Resolves or rejects if the import ends after all. */
  readonly loading: Promise<LoadedHandler>
}

export interface LoadedFiles {
  readonly handlers: readonly LoadedHandler[]
  readonly late: readonly LateFile[]
  readonly leftOut: readonly LeftOut[]
  readonly problems: readonly Problem[]
}

export interface LoadOptions {
  /** The timeout of each file, in milliseconds. */
  readonly timeout: number
  /**
   * Called with the files that are being loaded before each import: an import may end this process or block it for ever.
   */
  readonly onLoading?: (files: readonly string[]) => void
  readonly onLoaded?: (handler: LoadedHandler) => void
}

/** Milliseconds after which the next file is loaded although the previous one is not finished. */
const stagger = 250

/**
 * Loads every handler file directly in the folder, in the order of their names. One broken file stops all: its events
 * would be lost. Files load one after another, so that it is known which of them ended the process. A file that only
 * waits does not delay the next, because many files may wait for one helper.
 *
 * @throws {HandlersError} that names each file that is wrong
 */
export async function loadHandlers(dir: string, options: LoadOptions): Promise<Omit<LoadedFiles, 'problems'>> {
  const { problems, ...files } = await loadFiles(dir, options)
  if (problems.length > 0) throw new HandlersError(dir, problems)
  return files
}

type Result =
  | { readonly handler: LoadedHandler }
  | { readonly leftOut: LeftOut }
  | { readonly late: LateFile }
  | { readonly problem: Problem }

/** Loads each file, whatever is wrong with others. @throws {HandlersError} if the folder cannot be read */
export async function loadFiles(
  dir: string,
  { timeout, onLoading = () => undefined, onLoaded = () => undefined }: LoadOptions,
): Promise<LoadedFiles> {
  const { files, leftOut } = await handlerFiles(dir)
  const loading = new Set<string>()
  const results: Promise<Result>[] = []
  for (const name of files) {
    const file = join(dir, name)
    const twin = files.find((one) => nameOf(one) === nameOf(name))
    if (twin !== undefined && twin !== name) {
      const error = new TypeError(`${twin} is a handler of the same name`)
      results.push(Promise.resolve({ problem: { file, at: file, error } }))
      continue
    }
    loading.add(file)
    onLoading([...loading])
    const handler = loadHandler(file)
    const ended = handler.then(
      (handler): Result => ({ handler }),
      (error: unknown) => explainFailure(file, error),
    )
    void ended.finally(() => loading.delete(file))
    const late = { late: { name: nameOf(file), file, loading: handler } }
    results.push(
      within(timeout, ended, late).then((result) => {
        if ('handler' in result) onLoaded(result.handler)
        return result
      }),
    )
    await within(stagger, ended, late)
  }
  const all = await Promise.all(results)
  onLoading([])
  return {
    handlers: all.flatMap((one) => ('handler' in one ? [one.handler] : [])),
    leftOut: [...leftOut, ...all.flatMap((one) => ('leftOut' in one ? [one.leftOut] : []))],
    late: all.flatMap((one) => ('late' in one ? [one.late] : [])),
    problems: all.flatMap((one) => ('problem' in one ? [one.problem] : [])),
  }
}

async function explainFailure(file: string, error: unknown): Promise<Result> {
  if (error instanceof NoHandlerError) return { leftOut: { file, reason: error.message, isDoubtful: true } }
  return { problem: { file, at: await placeOf(error, file), error } }
}

/** Resolves to the promise's value, or to `late` after `ms` milliseconds. */
async function within<T, L>(ms: number, promise: Promise<T>, late: L): Promise<T | L> {
  const over = new AbortController()
  const timer = sleep(ms, late, { signal: over.signal }).catch(() => late)
  const first = await Promise.race([promise, timer])
  over.abort()
  return first
}

/** @throws what the file throws when it is imported, or a TypeError that says why its exports are not a handler */
export async function loadHandler(path: string): Promise<LoadedHandler> {
  const module: { default?: unknown; dispose?: unknown } = await import(pathToFileURL(path).href)
  const { dispose } = module
  if (dispose !== undefined && typeof dispose !== 'function')
    throw new TypeError('its export dispose must be a function')
  return {
    file: path,
    ...toHandler(nameOf(path), module),
    ...(dispose && { dispose: () => dispose() as unknown }),
  }
}

function toHandler(name: string, module: { readonly default?: unknown }): Omit<LoadedHandler, 'file' | 'dispose'> {
  const exported = module.default
  if (isDefinition(exported)) {
    const events = exported.events.map((event) => event.toUpperCase())
    return {
      name,
      events,
      matches: matcherOf(events),
      handle: exported.handle,
      options: exported.options,
    }
  }
  if (typeof exported === 'function') {
    const only = name.toUpperCase()
    return {
      name,
      events: [only],
      matches: (event) => event === only,
      handle: exported as Handler,
      options: defaultOptions,
    }
  }
  const text = `its default export must be a function or defineHandler(…), not ${exported === undefined ? 'missing' : typeof exported}`
  throw isForOthers(name, module) ? new NoHandlerError(text) : new TypeError(text)
}

/**
 * Whether the module only exports things for other files. A handler whose author forgot `default` is recognised by a file
 * name like an event's, or by an export named like a handler.
 */
function isForOthers(name: string, module: object): boolean {
  const exports = Object.entries(module)
  return (
    !/^on|^robot$/i.test(name) &&
    !isDocumented(name.toUpperCase()) &&
    exports.length > 0 &&
    !exports.some(([key, value]) => /^(default|handler?|dispose)$/.test(key) || isDefinition(value))
  )
}

/** Guesses from the handler's options and its own source text. The modules that it imports are not searched. */
export function mayCallBitrix24({ handle, options }: LoadedHandler): boolean {
  return options.ignoreOwnChanges || options.onChange !== undefined || /\b(?:bitrix24|record)\b/.test(String(handle))
}
