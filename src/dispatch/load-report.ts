import { join } from 'node:path'
import type { LeftOut } from '../handler/handler-files.ts'
import { readIfExists, writeFileAtomicSync } from '../lib/atomic-file.ts'
import { isObject } from '../lib/is-object.ts'
import { parseJson } from '../lib/json.ts'

/** What happened when a dispatcher of this folder last tried to load the handlers. It loads all of them or none. */
export interface LoadReport {
  /** When that dispatcher started, in Unix milliseconds. */
  readonly at: number
  /** Names of handlers. */
  readonly loaded: readonly string[]
  readonly broken: readonly BrokenFile[]
  /** Files that were left out because they are not handlers. Absent if the version that wrote the report left out none. */
  readonly leftOut?: readonly LeftOut[] | undefined
  /** Why the dispatcher waits although no file is broken. */
  readonly trouble?: string | undefined
  /** The files that are being loaded. If the process ends meanwhile, one of them ended it. */
  readonly loading?: readonly string[] | undefined
}

export interface BrokenFile {
  readonly file: string
  /** The file and, if known, the line. */
  readonly place: string
  readonly error: string
}

function pathOf(dataDir: string): string {
  return join(dataDir, 'loaded.json')
}

/** Writes the report for tools. It is a file even if the queue is in Postgres: each machine has its own handler files. */
export function writeLoadReport(dataDir: string, report: LoadReport): void {
  writeFileAtomicSync(pathOf(dataDir), `${JSON.stringify(report)}\n`)
}

/** Returns `undefined` if no dispatcher has tried to load handlers. */
export function readLoadReport(dataDir: string): LoadReport | undefined {
  const text = readIfExists(pathOf(dataDir))
  if (text === undefined) return undefined
  const report = parseJson(text)
  if (!isReport(report)) throw new Error(`${pathOf(dataDir)} is not what a dispatcher wrote: delete it`)
  return report
}

function isReport(value: unknown): value is LoadReport {
  if (!isObject(value) || typeof value['at'] !== 'number') return false
  const { loaded, broken, trouble, loading = [], leftOut = [] } = value
  const isText = (one: unknown) => typeof one === 'string'
  const has = (one: unknown, ...names: string[]) => isObject(one) && names.every((name) => isText(one[name]))
  return (
    [loaded, loading].every((list) => Array.isArray(list) && list.every(isText)) &&
    Array.isArray(leftOut) &&
    leftOut.every((one) => has(one, 'file', 'reason')) &&
    Array.isArray(broken) &&
    broken.every((one) => has(one, 'file', 'place', 'error')) &&
    (trouble === undefined || isText(trouble))
  )
}
