import { readFileSync, renameSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { LeftOut } from '../handler/handler-files.ts'
import { codeOf } from '../lib/error-code.ts'
import { isObject } from '../lib/is-object.ts'
import { fileMode } from '../lib/private-files.ts'

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
  const path = pathOf(dataDir)
  // A power cut must leave the previous report, not half a file. A list of files being loaded need not survive one.
  const options = { flush: report.loading === undefined, mode: fileMode(path) }
  writeFileSync(`${path}.next`, `${JSON.stringify(report)}\n`, options)
  renameSync(`${path}.next`, path)
}

/** Returns `undefined` if no dispatcher has tried to load handlers. */
export function readLoadReport(dataDir: string): LoadReport | undefined {
  try {
    const report = parse(readFileSync(pathOf(dataDir), 'utf8'))
    if (report === undefined) throw new Error(`${pathOf(dataDir)} is not what a dispatcher wrote: delete it`)
    return report
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return undefined
    throw error
  }
}

function parse(text: string): LoadReport | undefined {
  try {
    const report: unknown = JSON.parse(text)
    return isReport(report) ? report : undefined
  } catch {
    return undefined
  }
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
