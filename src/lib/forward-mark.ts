import { randomUUID } from 'node:crypto'

/** Names who forwarded a post; the receiver of that name refuses it: its handler would forward it again, for ever. */
export const forwardMark = 'b24-forwarded-by'

// Handler files call forward() themselves: nothing else of their process could hand it to them.
let ours: string = randomUUID()

/** The name of this process's receiver, until it is told another one a random one. */
export function forwarderId(): string {
  return ours
}

export function setForwarderId(id: string): void {
  ours = id
}
