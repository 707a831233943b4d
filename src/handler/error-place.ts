import { readFile } from 'node:fs/promises'
import { stripTypeScriptTypes } from 'node:module'
import { dirname, join } from 'node:path'

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
