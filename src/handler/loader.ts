import { readdir, readFile } from 'node:fs/promises'
import { stripTypeScriptTypes } from 'node:module'
import { basename, dirname, extname, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { pathToFileURL } from 'node:url'
import { isDocumented } from '../events/catalogue.ts'
import { candidates, nearestName } from '../events/nearest.ts'
import { robotEvent } from '../events/robot.ts'
import { defaultOptions, type Handler, isDefinition, type RunOptions } from './handler.ts'
import { matcherOf, not, toRegExp } from '../lib/pattern.ts'

/** A handler file, loaded. */
export interface LoadedHandler {
  /** The file's name without extension: it keys the deliveries. */
  readonly name: string
  readonly file: string
  /** Names and patterns, upper case. */
  readonly events: readonly string[]
  matches(event: string): boolean
  readonly handle: Handler
  readonly options: RunOptions
  /** Closes what the file opened; called before the process ends. */
  readonly dispose?: () => unknown
}

interface Problem {
  readonly file: string
  /** The file and the line, where that is known. */
  readonly at: string
  readonly error: unknown
}

/** The handlers folder cannot be used as it is; `problems` names every file that is wrong, with its error as the cause. */
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

/** What a file can be that stands among the handlers, and is none. */
export const underscoreRule = 'a file that is no handler is left out where its name begins with _'

/** A file that nobody marked as no handler, and that plainly is none. */
export interface LeftOut {
  readonly file: string
  readonly reason: string
  /** It may have been meant as a handler. */
  readonly isDoubtful: boolean
}

/** What is loaded is what other files import: it has exports, and nothing of a handler. */
class NoHandlerError extends TypeError {
  override readonly name = 'NoHandlerError'
}

/** A file that is not loaded within the time that it has. */
export interface LateFile {
  readonly name: string
  readonly file: string
  /** Settles if its import ends after all. */
  readonly loading: Promise<LoadedHandler>
}

export interface LoadedFiles {
  readonly handlers: readonly LoadedHandler[]
  readonly late: readonly LateFile[]
  readonly leftOut: readonly LeftOut[]
  readonly problems: readonly Problem[]
}

export interface LoadOptions {
  /** Milliseconds that each file has. */
  readonly timeout: number
  /** Told which files are being loaded before the next of them begins: it may end this process, or never let it go. */
  readonly onLoading?: (files: readonly string[]) => void
}

/** Milliseconds after which the next file begins although the one before has not ended. */
const stagger = 250

/**
 * Loads every handler file directly in the folder, in the order of their names. A broken one stops all: its events would
 * be passed over. One after another, so that it is known which of them ended the process; but a file that only waits does
 * not hold the next, because many may wait for one helper.
 *
 * @throws {HandlersError} naming each file that is wrong
 */
export async function loadHandlers(dir: string, options: LoadOptions): Promise<Omit<LoadedFiles, 'problems'>> {
  const { problems, ...files } = await loadFiles(dir, options)
  if (problems.length > 0) throw new HandlersError(dir, problems)
  return files
}

/** Each file, whatever is wrong with others. @throws {HandlersError} where the folder cannot be read */
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

/** What a promise gives, or else `late` after so many milliseconds. */
async function within<T, L>(ms: number, promise: Promise<T>, late: L): Promise<T | L> {
  const over = new AbortController()
  const timer = sleep(ms, late, { signal: over.signal }).catch(() => late)
  const first = await Promise.race([promise, timer])
  over.abort()
  return first
}

/** @throws whatever the file throws when it is imported, or a TypeError that says why what it exports is no handler */
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

/** The names of the files in the folder that are handlers, and what its name leaves out. @throws {HandlersError} */
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

/** Whether a file of this name is a handler; the others are what handlers share, their tests, and what else lies there. */
export function isHandlerFile(name: string): boolean {
  return extensions.has(extname(name)) && !isMarked(name) && leftOutByName(name) === undefined
}

/** Somebody said so, or a compiler wrote it: of these nothing is told. */
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

/** Of its handler. */
export function nameOf(file: string): string {
  return basename(file, extname(file))
}

/** The file and the line where loading it failed, as far as that is known. */
export async function placeOf(error: unknown, file: string): Promise<string> {
  const place = placeIn(error, file)
  if (place !== undefined || !(error instanceof SyntaxError)) return place ?? file
  // Of JavaScript that does not parse V8 keeps the place to itself when the error is caught.
  try {
    stripTypeScriptTypes(await readFile(file, 'utf8'), { sourceUrl: file })
  } catch (again) {
    return placeIn(again, file) ?? file
  }
  return file
}

const source = join(import.meta.dirname, '..')

/** The innermost place in the error's stack that is neither Node's nor our own, where the file is not one of our examples. */
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

/** Whether it only gives others what they import. Who forgot `default` named it after an event, or what it exports after a handler. */
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
 * Names that the documentation does not know, new in Bitrix24 or misspelt, each with the name that it may mean. A pattern
 * may wait for events to come; it is told when it matches none, but nearly matches one.
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

/** Whether it will, as far as its options and its own text tell: what it imports is not looked into. */
export function mayCallBitrix24({ handle, options }: LoadedHandler): boolean {
  return options.ignoreOwnChanges || options.onChange !== undefined || /\b(?:bitrix24|record)\b/.test(String(handle))
}
