/** A name, or a pattern in which `*` stands for any characters; both upper case. */
export function toRegExp(pattern: string): RegExp {
  return new RegExp(`^${pattern.replaceAll('.', '\\.').replaceAll('*', '.*')}$`, 's')
}

/** Whether an event's name is one of these, or matches one. */
export function matcherOf(patterns: readonly string[]): (event: string) => boolean {
  const expressions = patterns.map(toRegExp)
  return (event) => expressions.some((expression) => expression.test(event))
}
