/** The same numbers for the same seed: a whole number from 0 to below the limit. */
export function createRandom(seed: number): (limit: number) => number {
  let state = seed >>> 0
  // mulberry32
  return (limit) => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return Math.floor((((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32) * limit)
  }
}
