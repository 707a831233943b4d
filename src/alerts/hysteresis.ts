// Times are in Unix milliseconds. A time far in the future was taken before the clock was put back, and is dropped.

/**
 * Watches a counter. The burst begins when the counter grew by `minGrowth` within `windowMs` milliseconds. It ends when the
 * counter has not grown for `windowMs` milliseconds.
 *
 * @returns a function that returns how much the counter grew within that time during a burst, otherwise 0
 */
export function createBurst({ minGrowth, windowMs }: { readonly minGrowth: number; readonly windowMs: number }) {
  let last: number | undefined
  let steps: { readonly at: number; readonly count: number }[] = []
  let isHolding = false
  return (counter: number, at: number): number => {
    const count = counter - (last ?? counter)
    last = counter
    if (count > 0) steps.push({ at, count })
    steps = steps.filter((step) => Math.abs(at - step.at) < windowMs)
    const within = steps.reduce((sum, step) => sum + step.count, 0)
    isHolding = within >= (isHolding ? 1 : minGrowth)
    return isHolding ? within : 0
  }
}

/** Returns a function that stays true until its input has been false for `quietMs` milliseconds. */
export function createLasting(quietMs: number) {
  let seenAt: number | undefined
  return (isSo: boolean, at: number): boolean => {
    if (isSo) seenAt = at
    return seenAt !== undefined && Math.abs(at - seenAt) < quietMs
  }
}

/** Returns a function that becomes true when a value falls below the limit, and false when it reaches twice the limit. */
export function createShortage() {
  let isShort = false
  return (value: number, limit: number): boolean => {
    isShort = value < (isShort ? 2 * limit : limit)
    return isShort
  }
}

/** Returns a function that counts, over all calls, the names that the call before it did not have. */
export function createNewNames() {
  let before: ReadonlySet<string> = new Set()
  let count = 0
  return (names: Iterable<string>): number => {
    const now = new Set(names)
    count += [...now].filter((name) => !before.has(name)).length
    before = now
    return count
  }
}
