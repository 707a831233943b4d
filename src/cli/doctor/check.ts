import { ConfigError } from '../../config/config.ts'

/** What `doctor` found. */
export interface Check {
  /** What was looked at, in a word or two. */
  readonly name: string
  readonly state: 'ok' | 'warn' | 'FAIL' | 'skipped'
  readonly text: string
  /** What to do. */
  readonly advice?: string
}

/** Looks, and finds one thing or several. What it throws is a `FAIL`, for wrong settings it is passed over. */
export type Look = () => Promise<readonly Check[]>

export async function runCheck(name: string, look: Look): Promise<readonly Check[]> {
  try {
    return await look()
  } catch (error) {
    if (error instanceof ConfigError)
      return [{ name, state: 'skipped', text: 'it needs settings that are wrong', advice: 'mend the settings first' }]
    return [{ name, state: 'FAIL', text: reasonOf(error) }]
  }
}

export function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
