/** Bytes from which a body counts as large and waits for its turn. No documented event comes near this size. */
export const largeBytes = 64 * 1024

/** Bytes of memory kept for later large bodies. */
const maxSpareBytes = 4 * 1024 ** 2

/**
 * Keeps some of the memory of large bodies for the next ones. Otherwise, while megabytes are refused in a row, the
 * memory not yet collected would be many times the total.
 */
export function createBodyMemory(bodyLimit: number) {
  const spare: Buffer[] = []
  let bytes = 0
  return {
    /** Sizes double, so only a few different ones exist. */
    sizeFor(length: number): number {
      let size = 2 * largeBytes
      while (size < length) size *= 2
      return Math.min(size, bodyLimit)
    },
    take(size: number): Buffer {
      const index = spare.findIndex(({ length }) => length === size)
      const [found] = index === -1 ? [] : spare.splice(index, 1)
      bytes -= found?.length ?? 0
      return found ?? Buffer.allocUnsafeSlow(size)
    },
    release(memory: Buffer): void {
      if (memory.length <= largeBytes || bytes + memory.length > maxSpareBytes) return
      bytes += memory.length
      spare.push(memory)
    },
  }
}
