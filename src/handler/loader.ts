import { readdir, readFile } from 'node:fs/promises'
import { stripTypeScriptTypes } from 'node:module'
import { basename, dirname, extname, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { pathToFileURL } from 'node:url'
import { isDocumented } from '../events/catalogue.ts'
import { candidates, nearestName } from '../events/nearest.ts'
import { robotEvent } from '../events/robot.ts'
import { matcherOf, not, toRegExp } from '../lib/pattern.ts'
import { defaultOptions, type Handler, isDefinition, type RunOptions } from './handler.ts'

/** A handler file that is loaded. */
export interface LoadedHandler {
  /** The file's name without its extension. Deliveries refer to the handler by it. */
  readonly name: string
  readonly file: string
  /** Names and patterns, in upper case. */
  readonly events: readonly string[]
  matches(event: string): boolean
  readonly handle: Handler
  readonly options: RunOptions
  /** Closes what the file opened. Called before the process ends. */
  readonly dispose?: () => unknown
}

interface Problem {
  readonly file: string
  /** The file and, if known, the line. */
  readonly at: string
  readonly error: unknown
}

/** The handlers folder cannot be used. `problems` names every file that is wrong, with its error. */
export class HandlersError extends Error {
  override readonly name = 'HandlersError'
  readonly problems: readonly Problem[]

  constructor(dir: string, problems: readonly Problem[]) {
    super(
      `handlers of ${dir} cannot be loaded: ${problems.map(({ at, error }) => `${at}: ${String(error)}`).join('; ')}${problems.some(({ file }) => file !== dir) ? `; ${underscoreRule}` : ''}`,
    )
    this.problems = problems
  }
}

const extensions = new Set(['.ts', '.mts', '.js', '.mjs'])

/** The advice for a file in the handlers folder that is not a handler. */
export const underscoreRule = 'a file that is no handler is left out where its name begins with _'

/** A file that is clearly not a handler, although its name is not marked with `_`. */
export interface LeftOut {
  readonly file: string
  readonly reason: string
  /** The file may have been meant as a handler. */
  readonly isDoubtful: boolean
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

/** Loads each file, whatever is wrong with others. @throws {HandlersError} if the folder cannot be read */
export async function loadFiles(
  dir: string,
  { timeout, onLoading = () => undefined }: LoadOptions,
): Promise<LoadedFiles> {
  const { files, leftOut } = await handlerFiles(dir)
  const loading = new Set<string>()
  const results: Promise<Loading>[] = []
  for (const file of files) {
    const path = join(dir, file)
    const twin = files.find((one) => nameOf(one) === nameOf(file))
    if (twin !== undefined && twin !== file) {
      results.push(Promise.resolve(problemOf(path, new TypeError(`${twin} is a handler of the same name`))))
      continue
    }
    loading.add(path)
    onLoading([...loading])
    const handler = loadHandler(path)
    const ended = handler.then(
      (loaded) => ({ loaded }),
      (error: unknown) =>
        error instanceof NoHandlerError
          ? { leftOut: { file: path, reason: error.message, isDoubtful: true } }
          : problemOf(path, error),
    )
    void ended.finally(() => loading.delete(path))
    const late = { late: { name: nameOf(path), file: path, loading: handler } }
    results.push(within(timeout, ended, late))
    await within(stagger, ended, late)
  }
  const all = await Promise.all(results)
  onLoading([])
  const problems = all.filter((one) => 'error' in one)
  return {
    handlers: all.flatMap((one) => ('loaded' in one ? [one.loaded] : [])),
    leftOut: [...leftOut, ...all.flatMap((one) => ('leftOut' in one ? [one.leftOut] : []))],
    late: all.flatMap((one) => ('late' in one ? [one.late] : [])),
    problems: await Promise.all(problems.map(async (one) => ({ ...one, at: await placeOf(one.error, one.file) }))),
  }
}

type Loading =
  | { readonly loaded: LoadedHandler }
  | { readonly leftOut: LeftOut }
  | { readonly late: LateFile }
  | Omit<Problem, 'at'>

function problemOf(file: string, error: unknown): Omit<Problem, 'at'> {
  return { file, error }
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

/**
 * Returns the names of the handler files in the folder, and the files left out because of their names.
 *
 * @throws {HandlersError}
 */
export async function handlerFiles(
  dir: string,
): Promise<{ readonly files: readonly string[]; readonly leftOut: readonly LeftOut[] }> {
  try {
    const entries = await readdir(dir, { withFileTypes: true })
    const names = entries
      .filter((entry) => !entry.isDirectory())
      .map((entry) => entry.name)
      .sort()
    return {
      files: names.filter(isHandlerFile),
      leftOut: names.flatMap((name) => {
        const left = leftOutByName(name)
        return left === undefined ? [] : [{ file: join(dir, name), ...left }]
      }),
    }
  } catch (error) {
    throw new HandlersError(dir, [{ file: dir, at: dir, error }])
  }
}

/** Whether a file of this name is a handler. Other files are shared modules, tests or unrelated. */
export function isHandlerFile(name: string): boolean {
  return extensions.has(extname(name)) && !isMarked(name) && leftOutByName(name) === undefined
}

/** The user marked the file, or a compiler wrote it. Such files are not reported. */
function isMarked(name: string): boolean {
  return /^[_.]|\.d\.[cm]?ts$/.test(name)
}

function leftOutByName(name: string): Omit<LeftOut, 'file'> | undefined {
  if (isMarked(name)) return undefined
  if (/\.(test|spec|config)\.[cm]?[tj]sx?$/.test(name))
    return { reason: 'its name says that it is a test, or a setting of a tool', isDoubtful: false }
  if (/\.(c[tj]s|[tj]sx)$/.test(name))
    return { reason: `a handler ends in ${[...extensions].join(', ')}`, isDoubtful: true }
  return undefined
}

/** Returns the name of the file's handler. */
export function nameOf(file: string): string {
  return basename(file, extname(file))
}

/** Returns the file and, if known, the line where loading failed. */
export async function placeOf(error: unknown, file: string): Promise<string> {
  const place = placeIn(error, file)
  if (place !== undefined || !(error instanceof SyntaxError)) return place ?? file
  // V8 does not put the place of a syntax error into the stack when the error is caught.
  try {
    stripTypeScriptTypes(await readFile(file, 'utf8'), { sourceUrl: file })
  } catch (again) {
    return placeIn(again, file) ?? file
  }
  return file
}

const source = join(import.meta.dirname, '..')

/**
 * Returns the innermost place in the stack outside Node and this program's source.
 * Places in the file's own folder always count.
 */
function placeIn(error: unknown, file: string): string | undefined {
  const stack = error instanceof Error ? (error.stack ?? '') : ''
  const places = [...stack.matchAll(/(?:^|file:\/\/)(\/.+?:\d+)/gm)].map(([, place = '']) => place)
  return places.find((place) => !place.startsWith(source) || place.startsWith(dirname(file)))
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

/** Whether a pattern matches an event that the documentation knows. */
function matchesAny(event: string): boolean {
  const pattern = toRegExp(event)
  return candidates(event).some((name) => pattern.test(name))
}

/**
 * Returns event names that the documentation does not know, each with the name that it may mean. They are
 * new in Bitrix24 or misspelt. A pattern may be meant for future events, so it is returned only if it
 * matches no event but nearly matches one.
 */
export function unknownEvents(
  handler: Pick<LoadedHandler, 'events'>,
): { event: string; nearest: string | undefined }[] {
  return handler.events
    .map((event) => (event.startsWith(not) ? event.slice(1) : event))
    .filter((event) => (event.includes('*') ? !matchesAny(event) : !isDocumented(event) && event !== robotEvent))
    .map((event) => ({ event, nearest: nearestName(event) }))
    .filter(({ event, nearest }) => nearest !== undefined || !event.includes('*'))
}

/** Guesses from the handler's options and its own source text. The modules that it imports are not searched. */
export function mayCallBitrix24({ handle, options }: LoadedHandler): boolean {
  return options.ignoreOwnChanges || options.onChange !== undefined || /\b(?:bitrix24|record)\b/.test(String(handle))
}
