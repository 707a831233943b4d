/**
 * Text from strangers for a terminal or a log. A terminal obeys C0 and C1 controls (to some U+009B is `ESC [`); a bidi
 * control shows a text as another one; U+2028 and U+2029 end a line for some programs. All of them are shown as the
 * escapes that JSON has for them.
 */
const late = '\\u007f-\\u009f\\u061c\\u200e\\u200f\\u2028-\\u202e\\u2066-\\u2069'
const any = new RegExp(`[\\p{Cc}${late}]`, 'gu')
const anyButLines = new RegExp(`[^\\P{Cc}\\n\\t]|[${late}]`, 'gu')
const anyButColours = new RegExp(`[^\\P{Cc}\\n\\t\\u001b]|[${late}]`, 'gu')
/** Those that JSON.stringify leaves as they are. */
const inJson = new RegExp(`[${late}]`, 'g')

/** One line. */
export function printable(text: string): string {
  return text.replaceAll(any, toEscape)
}

/** Line ends and tabs stay. */
export function printableLines(text: string): string {
  return text.replaceAll(anyButLines, toEscape)
}

/** Only for text in which every ESC is a colour of ours. */
export function printableColours(text: string): string {
  return text.replaceAll(anyButColours, toEscape)
}

/** Takes a text that is JSON; what it means stays the same. */
export function printableJson(json: string): string {
  // As a rule it is ASCII, and to see that costs a tenth of looking for them.
  const isPlain = Buffer.byteLength(json) === json.length && !json.includes('\u007f')
  return isPlain ? json : json.replaceAll(inJson, toEscape)
}

function toEscape(character: string): string {
  return `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`
}
