/** Converts a name, or a pattern in which `*` stands for any characters. Both are in upper case. */
export function toRegExp(pattern: string): RegExp {
  return new RegExp(`^${pattern.replaceAll('.', '\\.').replaceAll('*', '.*')}$`, 's')
}

/** The prefix of an excluded name or pattern. */
export const not = '!'

/**
 * Returns a function that tests whether an event's name equals or matches one of the patterns, and matches no
 * excluded one.
 */
export function matcherOf(patterns: readonly string[]): (event: string) => boolean {
  const matches = (one: readonly string[]) => {
    const expressions = one.map(toRegExp)
    return (event: string) => expressions.some((expression) => expression.test(event))
  }
  const isNamed = matches(patterns.filter((pattern) => !pattern.startsWith(not)))
  const isLeftOut = matches(patterns.filter((pattern) => pattern.startsWith(not)).map((pattern) => pattern.slice(1)))
  return (event) => isNamed(event) && !isLeftOut(event)
}
