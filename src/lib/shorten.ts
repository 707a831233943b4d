/** For log lines: a text from the wire may be as long as a body. */
export function shorten(text: string): string {
  return text.length > 80 ? `${text.slice(0, 80)}…` : text
}
