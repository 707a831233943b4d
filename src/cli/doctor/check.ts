import { ConfigError } from '../../config/config.ts'

/** A result of `doctor`. */
export interface Check {
  /** The subject of the check, in a word or two. */
  readonly name: string
  readonly state: 'ok' | 'warn' | 'FAIL' | 'skipped'
  readonly text: string
  /** What to do. */
  readonly advice?: string
}

/**
 * Checks one subject and returns one or several results. An exception becomes a `FAIL`; for wrong settings the check
 * is skipped.
 */
export type Look = () => Promise<readonly Check[]>

export async function runCheck(name: string, look: Look): Promise<readonly Check[]> {
  try {
    return await look()
  } catch (error) {
    if (error instanceof ConfigError)
      return [{ name, state: 'skipped', text: 'it needs settings that are wrong', advice: 'fix the settings first' }]
    return [{ name, state: 'FAIL', text: reasonOf(error) }]
  }
}

export function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
