import { dirname, join, sep } from 'node:path'
import { pathToFileURL } from 'node:url'
import { inspect } from 'node:util'
import { Bitrix24Error } from '../bitrix24/bitrix24-error.ts'

const urlOf = (folder: string) => pathToFileURL(join(folder, sep)).href
const checkout = join(import.meta.dirname, '../..')
const ours = [urlOf(join(checkout, 'src')), urlOf(join(checkout, 'node_modules'))]

/**
 * Formats a thrown value for the author of the handler: its stack without the frames of Node and this product, its
 * properties, and its causes.
 */
export function explainError(error: unknown, handlerFile: string): string {
  if (!(error instanceof Error)) return inspect(error)
  const own = urlOf(dirname(handlerFile))
  // Our example handlers are treated like all others.
  const isForeign = (line: string) =>
    line.includes('node:') || (ours.some((folder) => line.includes(folder)) && !line.includes(own))
  const stack = (error.stack ?? String(error)).split('\n').filter((line) => !/^\s+at /.test(line) || !isForeign(line))
  // The message of a Bitrix24Error already contains its properties.
  const held = Object.entries(error instanceof Bitrix24Error ? {} : error).filter(([name]) => name !== 'name')
  return [
    ...stack,
    ...(held.length > 0 ? [`    ${inspect(Object.fromEntries(held), { breakLength: Number.POSITIVE_INFINITY })}`] : []),
    ...(error.cause === undefined ? [] : [`because of ${explainError(error.cause, handlerFile)}`]),
  ].join('\n')
}
