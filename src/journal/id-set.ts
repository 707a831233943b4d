export interface IdSet {
  /** @param id a UUID. @returns whether it is new */
  add(id: string): boolean
}

const minSlots = 2 ** 16

/**
 * A set of event ids, 16 bytes each, in a table that is at most half full: 32 MB for a million. A `Set` of strings
 * takes three times as much, and holds at most 16,777,216 of them.
 */
export function createIdSet(): IdSet {
  let slots = minSlots
  let count = 0
  // Four words for each id. No UUID is all zeros.
  let table = new Uint32Array(slots * 4)

  const isEmpty = (at: number) => table[at] === 0 && table[at + 1] === 0 && table[at + 2] === 0 && table[at + 3] === 0

  /** Adds the id that starts at index `from` of `words`. */
  function put(words: Uint32Array, from: number): boolean {
    const [a = 0, b = 0, c = 0, d = 0] = words.subarray(from, from + 4)
    for (let slot = mix(a, b, c, d) & (slots - 1); ; slot = (slot + 1) & (slots - 1)) {
      const at = slot * 4
      if (isEmpty(at)) {
        table.set([a, b, c, d], at)
        return true
      }
      if (table[at] === a && table[at + 1] === b && table[at + 2] === c && table[at + 3] === d) return false
    }
  }

  function grow(): void {
    const before = table
    slots *= 2
    table = new Uint32Array(slots * 4)
    for (let at = 0; at < before.length; at += 4)
      if (before.subarray(at, at + 4).some((word) => word !== 0)) put(before, at)
  }

  const words = new Uint32Array(4)
  return {
    add(id) {
      const hex = id.replaceAll('-', '')
      for (let word = 0; word < 4; word++) words[word] = Number.parseInt(hex.slice(word * 8, word * 8 + 8), 16)
      if (!put(words, 0)) return false
      if (++count * 2 > slots) grow()
      return true
    },
  }
}

/** Every bit affects the result, also for ids that are not random. The steps are MurmurHash3's. */
function mix(...words: readonly number[]): number {
  const hash = words.reduce((sum, word) => Math.imul(sum ^ (sum >>> 15) ^ word, 0x85ebca6b), 0)
  return hash ^ (hash >>> 13)
}
