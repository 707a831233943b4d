/** Returns whether a value has properties to read. Lists are objects, too. */
export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null
}
