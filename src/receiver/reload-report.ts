import { join } from 'node:path'
import { readIfExists, writeFileAtomic } from '../lib/atomic-file.ts'
import { isObject } from '../lib/is-object.ts'
import { parseJson } from '../lib/json.ts'

/** The result of a receiver's last reload of its settings, for `b24-receiver reload`. */
export interface ReloadReport {
  /** When the receiver began to read the settings, in Unix milliseconds. */
  readonly at: number
  /** Why nothing was reloaded. Empty if the new settings are in effect. */
  readonly problems: readonly string[]
  /** What is in effect now and may not be intended. */
  readonly warnings: readonly string[]
}

function pathOf(dataDir: string): string {
  return join(dataDir, 'reloaded.json')
}

export async function writeReloadReport(dataDir: string, report: ReloadReport): Promise<void> {
  await writeFileAtomic(pathOf(dataDir), `${JSON.stringify(report)}\n`)
}

/** Returns `undefined` if there is no report, or its content is not valid. */
export function readReloadReport(dataDir: string): ReloadReport | undefined {
  const report = parseJson(readIfExists(pathOf(dataDir)) ?? '')
  return isReport(report) ? report : undefined
}

function isReport(value: unknown): value is ReloadReport {
  if (!isObject(value) || typeof value['at'] !== 'number') return false
  return [value['problems'], value['warnings']].every(
    (list) => Array.isArray(list) && list.every((one) => typeof one === 'string'),
  )
}
