/**
 * The next byte to read. A position in a removed segment, or past the end of a sealed one, means the start of the
 * next one.
 */
export interface Position {
  readonly segment: number
  readonly offset: number
  /**
   * The id of the segment's first event, if it is known. It shows whether the segment with that number is the same
   * one: see fit.ts.
   */
  readonly first?: string | undefined
}

/** The start of every journal. */
export const oldest: Position = { segment: 0, offset: 0 }

export function isBefore(one: Position, other: Position): boolean {
  return one.segment < other.segment || (one.segment === other.segment && one.offset < other.offset)
}
