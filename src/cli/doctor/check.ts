import { ConfigError } from '../../config/config.ts'
import { messageOf } from '../../lib/error-text.ts'

/** A result of `doctor`. */
export interface Check {
  /** The subject of the check, in a word or two. */
  readonly name: string
  readonly state: 'ok' | 'warn' | 'FAIL' | 'skipped'
  readonly text: string
  /** What to do. */
  readonly advice?: string
}

const stateAs = (state: Check['state']) => (name: string, text: string, advice?: string) =>
  ({ name, state, text, ...(advice !== undefined && { advice }) }) satisfies Check

export const ok = stateAs('ok')
export const warn = stateAs('warn')
export const fail = stateAs('FAIL')
export const skipped = stateAs('skipped')

/**
 * Checks one subject and returns one or several results. An exception becomes a `FAIL`; for wrong settings the check
 * is skipped.
 */
export type Look = () => Promise<readonly Check[]>

export async function runCheck(name: string, look: Look): Promise<readonly Check[]> {
  try {
    return await look()
  } catch (error) {
    if (!(error instanceof ConfigError)) return [fail(name, messageOf(error))]
    return [skipped(name, 'it needs settings that are wrong', 'fix the settings first')]
  }
}
