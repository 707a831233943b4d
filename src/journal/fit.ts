import type { Position } from './follow.ts'
import { readNumbers, wasEmpty } from './numbers.ts'
import { firstId, listSegments, openToRead, type Segment } from './segments.ts'

/**
 * Why a position does not fit the journal that is there: to follow on from it would pass events over, or nobody knows
 * whether it would. `undefined` when it fits.
 */
export async function misfitOf(dataDir: string, position: Position): Promise<string | undefined> {
  const segments = await listSegments(dataDir)
  const [twin] = twinsOf(segments.filter(({ number }) => number >= position.segment))
  if (twin)
    return `${twin[0].path} and ${twin[1].path} have one number: give one of them a number that no other had, or remove it`
  return misfitIn(dataDir, segments, position)
}

/** Each two that have one number. */
export function twinsOf(segments: readonly Segment[]): readonly (readonly [Segment, Segment])[] {
  return segments.flatMap((segment, index) => {
    const before = segments[index - 1]
    return before?.number === segment.number ? [[before, segment] as const] : []
  })
}

/** As `misfitOf`, of one segment of each number. */
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
    // The handlers' side may have read what a crash or a failed write took back.
    if (wasEmpty(await readNumbers(dataDir), number)) return undefined
    return `the journal was followed into segment ${number}, and that is gone`
  }
  if (first === undefined) return undefined
  const handle = await openToRead(segment)
  try {
    const found = handle && (await firstId(handle))
    // A first line that is damaged costs no more than its event.
    if (found === undefined || found === first) return undefined
    return `${segment.path} begins with event ${found}, and the segment ${number} that was followed began with ${first}: it is another one`
  } finally {
    await handle?.close()
  }
}
