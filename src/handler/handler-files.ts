import { readdir } from 'node:fs/promises'
import { basename, extname, join } from 'node:path'

export interface Problem {
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

export const underscoreRule = 'a file that is no handler is left out where its name begins with _'

/** A file that is clearly not a handler, although its name is not marked with `_`. */
export interface LeftOut {
  readonly file: string
  readonly reason: string
  /** The file may have been meant as a handler. */
  readonly isDoubtful: boolean
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

export function nameOf(file: string): string {
  return basename(file, extname(file))
}
