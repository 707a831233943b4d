import { readNumbers, wasEmpty } from './numbers.ts'
import type { Position } from './position.ts'
import { firstIdIn, listSegments, type Segment } from './segments.ts'

/**
 * Returns why a position does not fit the existing journal; `undefined` if it fits. To continue from a position that
 * does not fit would skip events, or might do so.
 */
export async function misfitOf(dataDir: string, position: Position): Promise<string | undefined> {
  const segments = await listSegments(dataDir)
  const [duplicate] = duplicatesOf(segments.filter(({ number }) => number >= position.segment))
  if (duplicate)
    return `${duplicate[0].path} and ${duplicate[1].path} have one number: give one of them a number that no other had, or remove it`
  return misfitIn(dataDir, segments, position)
}

/** Returns each pair of segments with the same number. */
export function duplicatesOf(segments: readonly Segment[]): readonly (readonly [Segment, Segment])[] {
  return segments.flatMap((segment, index) => {
    const before = segments[index - 1]
    return before?.number === segment.number ? [[before, segment] as const] : []
  })
}

/** Does the same as `misfitOf`, for segments with unique numbers. */
export async function misfitIn(
  dataDir: string,
  segments: readonly Segment[],
  position: Position,
): Promise<string | undefined> {
  const { segment: number, first } = position
  // The start of every journal.
  if (number === 0) return undefined
  if (number > (segments.at(-1)?.number ?? 0))
    return `the journal was followed into segment ${number}, and there is none so new: it is an older one, such as a backup`
  const segment = segments.find((one) => one.number === number)
  if (segment === undefined) {
    // The dispatcher may have read bytes that a crash or a failed write then removed.
    if (wasEmpty(await readNumbers(dataDir), number)) return undefined
    return `the journal was followed into segment ${number}, and that is gone`
  }
  if (first === undefined) return undefined
  const found = await firstIdIn(segment)
  // A damaged first line loses only its own event.
  if (found === undefined || found === first) return undefined
  return `${segment.path} begins with event ${found}, and the segment ${number} that was followed began with ${first}: it is another one`
}
