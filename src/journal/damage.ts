import { isUtf8 } from 'node:buffer'
import { newline } from '../lib/blocks.ts'
import { isObject } from '../lib/is-object.ts'
import { parseJson } from '../lib/json.ts'
import type { Position } from './position.ts'

/** A complete journal line that cannot be read. It loses its own events and no others. */
export interface Damage {
  readonly at: Position
  /** The readable ids of its events. There are two if the newline between two lines is missing. */
  readonly events: readonly string[]
}

/** The beginning of every line (see journal.ts). Inside an event's text the quotes would be escaped. */
const beginning = /\{"level":\d+,"time":"[^"]*","id":"([^"]{1,64})"/g

/** The maximum number of ids in a log line. */
const maxIds = 20

/** Returns the ids of the events that begin in these bytes. */
export function readableIds(bytes: Buffer): string[] {
  return [...bytes.toString().matchAll(beginning)].slice(0, maxIds).map(([, id = '']) => id)
}

/** @returns the length of the lines up to and including the last one that is a JSON object */
export function lengthOfWhole(bytes: Buffer): number {
  for (let end = bytes.lastIndexOf(newline) + 1; end > 0; ) {
    const start = end === 1 ? 0 : bytes.lastIndexOf(newline, end - 2) + 1
    if (isWhole(bytes.subarray(start, end - 1))) return end
    end = start
  }
  return 0
}

function isWhole(line: Buffer): boolean {
  // Most invalid lines consist of the NUL bytes that a power cut leaves.
  return line[0] === brace && isUtf8(line) && isObject(parseJson(line.toString()))
}

const brace = '{'.charCodeAt(0)
