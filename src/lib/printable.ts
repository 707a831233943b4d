/**
 * Makes text from strangers safe for a terminal or a log. A terminal obeys C0 and C1 controls (some read U+009B as
 * `ESC [`). A bidi control makes a text look like another one. U+2028 and U+2029 end a line for some programs. All of
 * them are replaced by their JSON escapes.
 */
const late = '\\u007f-\\u009f\\u061c\\u200e\\u200f\\u2028-\\u202e\\u2066-\\u2069'
const any = new RegExp(`[\\p{Cc}${late}]`, 'gu')
const anyButLines = new RegExp(`[^\\P{Cc}\\n\\t]|[${late}]`, 'gu')
const anyButColours = new RegExp(`[^\\P{Cc}\\n\\t\\u001b]|[${late}]`, 'gu')
/** The characters that JSON.stringify does not escape. */
const inJson = new RegExp(`[${late}]`, 'g')

/** The result is one line. */
export function printable(text: string): string {
  return text.replaceAll(any, toEscape)
}

/** Line ends and tabs stay. */
export function printableLines(text: string): string {
  return text.replaceAll(anyButLines, toEscape)
}

/** Only for a text in which every ESC is a colour of this program. */
export function printableColours(text: string): string {
  return text.replaceAll(anyButColours, toEscape)
}

/** Takes a text that is JSON. Its meaning stays the same. */
export function printableJson(json: string): string {
  // Most texts are ASCII, and this check costs a tenth of the search.
  const isPlain = Buffer.byteLength(json) === json.length && !json.includes('\u007f')
  return isPlain ? json : json.replaceAll(inJson, toEscape)
}

function toEscape(character: string): string {
  return `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`
}
