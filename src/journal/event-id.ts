/** When an event's id was made, in Unix milliseconds: UUIDv7 begin with it, and so may what is only the beginning of one. */
export function timeOfId(id: string): number {
  return Number.parseInt(id.replaceAll('-', '').slice(0, 12).padEnd(12, '0'), 16)
}
