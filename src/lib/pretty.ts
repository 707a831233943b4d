import { type PrettyOptions, prettyFactory } from 'pino-pretty'
import { isObject } from './is-object.ts'
import { parseJson } from './json.ts'
import { printable, printableColours, printableLines } from './printable.ts'

/** The format of a line for people. */
export const onTerminal = { singleLine: true, translateTime: 'SYS:HH:MM:ss.l' } as const

/** ESC as JSON writes it, after an even number of backslashes. */
const escInJson = /(?<!\\)((?:\\\\)*)\\u001b/gi

/**
 * Makes log lines readable for people at a terminal. pino-pretty writes messages, stacks and names unescaped. So
 * texts from strangers are made printable first, and every ESC in the result is a colour of pino-pretty.
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

/** Returns `undefined` for a text that is not a log line. */
function parse(json: string): Record<string, unknown> | undefined {
  const fields = parseJson(json.replaceAll(escInJson, '$1\\\\u001b'))
  return isObject(fields) ? { ...fields } : undefined
}
