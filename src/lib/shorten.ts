/** Characters of a text in a log line: a text from the wire may be as long as a body. */
const maxLoggedLength = 80

export function shorten(text: string, maxLength: number = maxLoggedLength): string {
  return text.length > maxLength ? `${text.slice(0, maxLength)}…` : text
}
