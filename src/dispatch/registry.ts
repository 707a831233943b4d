import { readdir, readFile } from 'node:fs/promises'
import { stripTypeScriptTypes } from 'node:module'
import { basename, dirname, extname, join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { isDocumented } from '../events/catalogue.ts'
import { candidates, nearestName } from '../events/nearest.ts'
import { robotEvent } from '../events/robot.ts'
import { defaultOptions, type Handler, isDefinition, type RunOptions } from './handler.ts'
import { matcherOf, not, toRegExp } from './pattern.ts'

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
      `handlers of ${dir} cannot be loaded: ${problems.map(({ at, error }) => `${at}: ${String(error)}`).join('; ')}`,
    )
    this.problems = problems
  }
}

const extensions = new Set(['.ts', '.mts', '.js', '.mjs'])

/**
 * Loads every handler file directly in the folder, in the order of their names. All or nothing: with one of them missing
 * its events would be passed over.
 *
 * @throws {HandlersError} naming each file that is wrong
 */
export async function loadHandlers(dir: string): Promise<LoadedHandler[]> {
  const files = await handlerFiles(dir)
  const handlers: LoadedHandler[] = []
  const problems: Problem[] = []
  for (const file of files) {
    const path = join(dir, file)
    try {
      const twin = handlers.find(({ name }) => name === nameOf(file))
      if (twin) throw new TypeError(`${basename(twin.file)} is a handler of the same name`)
      handlers.push(await loadHandler(path))
    } catch (error) {
      problems.push({ file: path, at: await placeOf(error, path), error })
    }
  }
  if (problems.length > 0) throw new HandlersError(dir, problems)
  return handlers
}

/** @throws whatever the file throws when it is imported, or a TypeError that says why what it exports is no handler */
export async function loadHandler(path: string): Promise<LoadedHandler> {
  const module: { default?: unknown; dispose?: unknown } = await import(pathToFileURL(path).href)
  const { dispose } = module
  if (dispose !== undefined && typeof dispose !== 'function')
    throw new TypeError('its export dispose must be a function')
  return {
    file: path,
    ...toHandler(nameOf(path), module.default),
    ...(dispose && { dispose: () => dispose() as unknown }),
  }
}

/** The names of the files in the folder that are handlers. @throws {HandlersError} */
export async function handlerFiles(dir: string): Promise<string[]> {
  try {
    const entries = await readdir(dir, { withFileTypes: true })
    return entries
      .filter((entry) => !entry.isDirectory())
      .map((entry) => entry.name)
      .filter(isHandlerFile)
      .sort()
  } catch (error) {
    throw new HandlersError(dir, [{ file: dir, at: dir, error }])
  }
}

/** Whether a file of this name is a handler; the others are what handlers share, their tests, and what else lies there. */
export function isHandlerFile(name: string): boolean {
  return extensions.has(extname(name)) && !/^[_.]|\.d\.m?ts$|\.test\.m?[tj]s$/.test(name)
}

function nameOf(file: string): string {
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

function toHandler(name: string, exported: unknown): Omit<LoadedHandler, 'file' | 'dispose'> {
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
  throw new TypeError(
    `its default export must be a function or defineHandler(…), not ${exported === undefined ? 'missing' : typeof exported}`,
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
export function unknownEvents(handler: LoadedHandler): { event: string; nearest: string | undefined }[] {
  return handler.events
    .map((event) => (event.startsWith(not) ? event.slice(1) : event))
    .filter((event) => (event.includes('*') ? !matchesAny(event) : !isDocumented(event) && event !== robotEvent))
    .map((event) => ({ event, nearest: nearestName(event) }))
    .filter(({ event, nearest }) => nearest !== undefined || !event.includes('*'))
}
