const uuid = /^[\da-f]{8}-[\da-f]{4}-([1-8])[\da-f]{3}-[89ab][\da-f]{3}-[\da-f]{12}$/

/** Returns the version of a UUID in lower case (RFC 9562); `undefined` for any other text. */
export function uuidVersion(text: string): number | undefined {
  const version = uuid.exec(text)?.[1]
  return version === undefined ? undefined : Number(version)
}
