import { dirname, join, sep } from 'node:path'
import { pathToFileURL } from 'node:url'
import { inspect } from 'node:util'
import { Bitrix24Error } from '../bitrix24/bitrix24-error.ts'

const urlOf = (folder: string) => pathToFileURL(join(folder, sep)).href
const checkout = join(import.meta.dirname, '../..')
const ours = [urlOf(join(checkout, 'src')), urlOf(join(checkout, 'node_modules'))]

/** What was thrown, for the author of the handler: its stack without Node's frames and ours, what it holds, and its causes. */
export function explainError(error: unknown, handlerFile: string): string {
  if (!(error instanceof Error)) return inspect(error)
  const own = urlOf(dirname(handlerFile))
  // Our example handlers are as anybody's.
  const isForeign = (line: string) =>
    line.includes('node:') || (ours.some((folder) => line.includes(folder)) && !line.includes(own))
  const stack = (error.stack ?? String(error)).split('\n').filter((line) => !/^\s+at /.test(line) || !isForeign(line))
  // What a Bitrix24Error holds stands in its message.
  const held = Object.entries(error instanceof Bitrix24Error ? {} : error).filter(([name]) => name !== 'name')
  return [
    ...stack,
    ...(held.length > 0 ? [`    ${inspect(Object.fromEntries(held), { breakLength: Number.POSITIVE_INFINITY })}`] : []),
    ...(error.cause === undefined ? [] : [`because of ${explainError(error.cause, handlerFile)}`]),
  ].join('\n')
}
