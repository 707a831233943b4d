// A time is in Unix milliseconds. One that lies far ahead was taken before the clock was put back, and is forgotten.

/**
 * Watches a counter: holds when it grew by `many` within `window` milliseconds, and until it did not grow for so long.
 *
 * @returns how much it grew within the window while it holds, else 0
 */
export function createBurst({ many, window }: { readonly many: number; readonly window: number }) {
  let last: number | undefined
  let steps: { readonly at: number; readonly count: number }[] = []
  let isHolding = false
  return (counter: number, at: number): number => {
    const count = counter - (last ?? counter)
    last = counter
    if (count > 0) steps.push({ at, count })
    steps = steps.filter((step) => Math.abs(at - step.at) < window)
    const within = steps.reduce((sum, step) => sum + step.count, 0)
    isHolding = within >= (isHolding ? 1 : many)
    return isHolding ? within : 0
  }
}

/** Holds while something is so, and until it was not for `quiet` milliseconds. */
export function createLasting(quiet: number) {
  let seenAt: number | undefined
  return (isSo: boolean, at: number): boolean => {
    if (isSo) seenAt = at
    return seenAt !== undefined && Math.abs(at - seenAt) < quiet
  }
}

/** Holds when a value falls below a limit, and until it has reached twice the limit. */
export function createShortage() {
  let isShort = false
  return (value: number, limit: number): boolean => {
    isShort = value < (isShort ? 2 * limit : limit)
    return isShort
  }
}
