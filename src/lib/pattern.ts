/** A name, or a pattern in which `*` stands for any characters; both upper case. */
export function toRegExp(pattern: string): RegExp {
  return new RegExp(`^${pattern.replaceAll('.', '\\.').replaceAll('*', '.*')}$`, 's')
}

/** What stands before a name or pattern that is left out. */
export const not = '!'

/** Whether an event's name is one of these, or matches one, and none that is left out. */
export function matcherOf(patterns: readonly string[]): (event: string) => boolean {
  const matches = (one: readonly string[]) => {
    const expressions = one.map(toRegExp)
    return (event: string) => expressions.some((expression) => expression.test(event))
  }
  const isNamed = matches(patterns.filter((pattern) => !pattern.startsWith(not)))
  const isLeftOut = matches(patterns.filter((pattern) => pattern.startsWith(not)).map((pattern) => pattern.slice(1)))
  return (event) => isNamed(event) && !isLeftOut(event)
}
