import { type PrettyOptions, prettyFactory } from 'pino-pretty'
import { printable, printableColours, printableLines } from './printable.ts'

/** How a line looks to people. */
export const onTerminal = { singleLine: true, translateTime: 'SYS:HH:MM:ss.l' } as const

/** ESC as JSON writes it: behind a number of backslashes that is even. */
const escInJson = /(?<!\\)((?:\\\\)*)\\u001b/gi

/**
 * Makes lines of a log readable for people at a terminal. pino-pretty writes messages, stacks and names as they are, so
 * what strangers wrote is made printable before, and every ESC in the result is a colour of pino-pretty.
 */
export function createPretty(options: PrettyOptions): (line: string | object) => string {
  const pretty = prettyFactory(options)
  return (line) => {
    const json = typeof line === 'string' ? line : JSON.stringify(line)
    const fields = parse(json)
    if (fields === undefined) return `${printableLines(json)}\n`
    const { msg } = fields
    return printableColours(pretty({ ...fields, ...(typeof msg === 'string' && { msg: printable(msg) }) }))
  }
}

/** `undefined` for what is no line of a log. */
function parse(json: string): Record<string, unknown> | undefined {
  try {
    const fields: unknown = JSON.parse(json.replaceAll(escInJson, '$1\\\\u001b'))
    return typeof fields === 'object' && fields !== null ? { ...fields } : undefined
  } catch {
    return undefined
  }
}
