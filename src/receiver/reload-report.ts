import { readFileSync, renameSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { codeOf } from '../lib/error-code.ts'
import { isObject } from '../lib/is-object.ts'
import { fileMode } from '../lib/private-files.ts'

/** What a receiver made of its settings when it was last told to reload, for `b24-receiver reload`. */
export interface ReloadReport {
  /** Unix milliseconds, when it began to read them. */
  readonly at: number
  /** Why nothing was reloaded; empty when the new settings hold. */
  readonly problems: readonly string[]
  /** What holds now and may not have been meant. */
  readonly warnings: readonly string[]
}

function pathOf(dataDir: string): string {
  return join(dataDir, 'reloaded.json')
}

export function writeReloadReport(dataDir: string, report: ReloadReport): void {
  const path = pathOf(dataDir)
  writeFileSync(`${path}.next`, `${JSON.stringify(report)}\n`, { mode: fileMode(path) })
  renameSync(`${path}.next`, path)
}

/** `undefined` where there is none, or none that can be read. */
export function readReloadReport(dataDir: string): ReloadReport | undefined {
  try {
    const report: unknown = JSON.parse(readFileSync(pathOf(dataDir), 'utf8'))
    return isReport(report) ? report : undefined
  } catch (error) {
    if (codeOf(error) === 'ENOENT' || error instanceof SyntaxError) return undefined
    throw error
  }
}

function isReport(value: unknown): value is ReloadReport {
  if (!isObject(value) || typeof value['at'] !== 'number') return false
  return [value['problems'], value['warnings']].every(
    (list) => Array.isArray(list) && list.every((one) => typeof one === 'string'),
  )
}
