import { join } from 'node:path'
import { readIfExists, writeFileAtomic } from '../lib/atomic-file.ts'
import { isObject } from '../lib/is-object.ts'
import { parseJson } from '../lib/json.ts'

/** A range of numbers, first and last included. */
type Range = readonly [first: number, last: number]

/**
 * The numbers that the journal's segments have had. The files alone do not show them: the newest may be removed, and
 * its number must not come to mean another segment.
 */
export interface Numbers {
  /** The name of the newest segment ever made, with its number; `undefined` if it is unknown. */
  readonly newest: string | undefined
  /**
   * Numbers of segments that were removed because none of their lines was acknowledged. The last hundred ranges are
   * kept.
   */
  readonly empty: readonly Range[]
}

const maxRanges = 100

/** A name has twelve digits; a damaged number must not use them up. */
const maxNumber = 999_999_999

function pathOf(dataDir: string): string {
  return join(dataDir, 'journal.json')
}

/** An invalid file counts as a missing one, because the start must not depend on it. */
export async function readNumbers(dataDir: string): Promise<Numbers> {
  const found = parseJson(readIfExists(pathOf(dataDir)) ?? '')
  if (isObject(found) && typeof found['newest'] === 'string' && Array.isArray(found['empty']))
    return { newest: found['newest'], empty: found['empty'].filter(isRange) }
  return { newest: undefined, empty: [] }
}

function isRange(value: unknown): value is Range {
  return Array.isArray(value) && value.length === 2 && value.every((one) => Number.isSafeInteger(one))
}

export async function writeNumbers(dataDir: string, numbers: Numbers): Promise<void> {
  await writeFileAtomic(pathOf(dataDir), `${JSON.stringify(numbers)}\n`)
}

/** @returns the greatest of the valid segment numbers, and 0 if none is valid */
export function highestOf(...numbers: readonly (number | undefined)[]): number {
  return Math.max(
    0,
    ...numbers.filter((one = 0) => Number.isSafeInteger(one) && one <= maxNumber).map((one = 0) => one),
  )
}

export function withEmpty(ranges: readonly Range[], first: number, last: number): readonly Range[] {
  if (last < first) return ranges
  const before = ranges.at(-1)
  if (before && before[0] <= first && first <= before[1] + 1)
    return [...ranges.slice(0, -1), [before[0], Math.max(last, before[1])]]
  return [...ranges, [first, last] as const].slice(-maxRanges)
}

export function wasEmpty({ empty }: Numbers, number: number): boolean {
  return empty.some(([first, last]) => first <= number && number <= last)
}
