import { isUtf8 } from 'node:buffer'
import { isObject } from '../lib/is-object.ts'
import { newline } from '../lib/blocks.ts'
import type { Position } from './follow.ts'

/** A whole line of the journal that cannot be read. It costs its own events and no others. */
export interface Damage {
  readonly at: Position
  /** The ids of its events, as far as they can still be read; there are two where the newline between two lines is gone. */
  readonly events: readonly string[]
}

/** How each line begins (journal.ts). In the text of an event the quotes would be escaped. */
const beginning = /\{"level":\d+,"time":"[^"]*","id":"([^"]{1,64})"/g

/** So many ids are named in a log line. */
const mostNamed = 20

/** The ids of the events that begin in these bytes. */
export function readableIds(bytes: Buffer): string[] {
  return [...bytes.toString().matchAll(beginning)].slice(0, mostNamed).map(([, id = '']) => id)
}

/** @returns the length of the lines up to and with the last one that is a JSON object */
export function lengthOfWhole(bytes: Buffer): number {
  for (let end = bytes.lastIndexOf(newline) + 1; end > 0; ) {
    const start = end === 1 ? 0 : bytes.lastIndexOf(newline, end - 2) + 1
    if (isWhole(bytes.subarray(start, end - 1))) return end
    end = start
  }
  return 0
}

function isWhole(line: Buffer): boolean {
  // Most of what is no line is the NUL bytes of a power cut.
  if (line[0] !== brace || !isUtf8(line)) return false
  try {
    return isObject(JSON.parse(line.toString()))
  } catch {
    return false
  }
}

const brace = '{'.charCodeAt(0)
