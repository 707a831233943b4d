import { randomUUID } from 'node:crypto'

/**
 * Names the receiver that forwarded a post. The receiver of that name refuses the post, because its handler would
 * forward it again, forever.
 */
export const forwardMark = 'b24-forwarded-by'

// Module state, because handler files call `forward()` directly, so no other code can pass the name to it.
let ours: string = randomUUID()

/** Returns the name of this process's receiver. Until the name is set, it is random. */
export function forwarderId(): string {
  return ours
}

export function setForwarderId(id: string): void {
  ours = id
}
