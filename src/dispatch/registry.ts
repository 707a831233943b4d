import { readdir } from 'node:fs/promises'
import { basename, extname, join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { isDocumented } from '../events/catalogue.ts'
import { type Handler, isDefinition } from './handler.ts'

/** A handler file, loaded. */
export interface LoadedHandler {
  /** The file's name without extension: it keys the deliveries. */
  readonly name: string
  readonly file: string
  /** Names and patterns, upper case. */
  readonly events: readonly string[]
  matches(event: string): boolean
  readonly handle: Handler
}

/** The handlers folder cannot be used as it is; `problems` names every file that is wrong, with its error as the cause. */
export class HandlersError extends Error {
  override readonly name = 'HandlersError'
  readonly problems: readonly { readonly file: string; readonly error: unknown }[]

  constructor(dir: string, problems: HandlersError['problems']) {
    super(
      `handlers of ${dir} cannot be loaded: ${problems.map(({ file, error }) => `${file}: ${String(error)}`).join('; ')}`,
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
  const problems: { file: string; error: unknown }[] = []
  for (const file of files) {
    const path = join(dir, file)
    const name = basename(file, extname(file))
    try {
      const twin = handlers.find((handler) => handler.name === name)
      if (twin) throw new TypeError(`${basename(twin.file)} is a handler of the same name`)
      const module: { default?: unknown } = await import(pathToFileURL(path).href)
      handlers.push({ file: path, ...toHandler(name, module.default) })
    } catch (error) {
      problems.push({ file: path, error })
    }
  }
  if (problems.length > 0) throw new HandlersError(dir, problems)
  return handlers
}

async function handlerFiles(dir: string): Promise<string[]> {
  try {
    const entries = await readdir(dir, { withFileTypes: true })
    return entries
      .filter((entry) => !entry.isDirectory())
      .map((entry) => entry.name)
      .filter((name) => extensions.has(extname(name)) && !/^[_.]|\.d\.m?ts$|\.test\.m?[tj]s$/.test(name))
      .sort()
  } catch (error) {
    throw new HandlersError(dir, [{ file: dir, error }])
  }
}

function toHandler(name: string, exported: unknown): Omit<LoadedHandler, 'file'> {
  if (isDefinition(exported)) {
    const events = exported.events.map((event) => event.toUpperCase())
    const patterns = events.map(toRegExp)
    return {
      name,
      events,
      matches: (event) => patterns.some((pattern) => pattern.test(event)),
      handle: exported.handle,
    }
  }
  if (typeof exported === 'function') {
    const only = name.toUpperCase()
    return { name, events: [only], matches: (event) => event === only, handle: exported as Handler }
  }
  throw new TypeError(
    `its default export must be a function or defineHandler(…), not ${exported === undefined ? 'missing' : typeof exported}`,
  )
}

function toRegExp(pattern: string): RegExp {
  return new RegExp(`^${pattern.replaceAll('.', '\\.').replaceAll('*', '.*')}$`, 's')
}

/** Names without a `*` that the documentation does not know: new in Bitrix24, or misspelt. */
export function unknownEvents(handler: LoadedHandler): string[] {
  return handler.events.filter((event) => !event.includes('*') && !isDocumented(event))
}
