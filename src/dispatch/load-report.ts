import { readFileSync, renameSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { codeOf } from '../lib/error-code.ts'
import { isObject } from '../lib/is-object.ts'
import { fileMode } from '../lib/private-files.ts'
import type { LeftOut } from '../handler/loader.ts'

/** What a dispatcher of this folder made of the handlers when it last tried to load them: all of them, or none. */
export interface LoadReport {
  /** When that dispatcher began, in Unix milliseconds: what it made of them was true then. */
  readonly at: number
  /** Their names. */
  readonly loaded: readonly string[]
  readonly broken: readonly BrokenFile[]
  /** What is no handler, and was told so; absent where a release wrote this that left out nothing. */
  readonly leftOut?: readonly LeftOut[] | undefined
  /** Why it waits although no file is broken. */
  readonly trouble?: string | undefined
  /** While it loads them, those that are being loaded: if its process ends, one of them ended it. */
  readonly loading?: readonly string[] | undefined
}

export interface BrokenFile {
  readonly file: string
  /** The file and the line, where that is known. */
  readonly place: string
  readonly error: string
}

function pathOf(dataDir: string): string {
  return join(dataDir, 'loaded.json')
}

/** For tools. It stands beside whichever engine: with Postgres each machine has files of its own, too. */
export function writeLoadReport(dataDir: string, report: LoadReport): void {
  const path = pathOf(dataDir)
  // A power cut leaves the one before, not half a file. Of what is being loaded it need not tell.
  const options = { flush: report.loading === undefined, mode: fileMode(path) }
  writeFileSync(`${path}.next`, `${JSON.stringify(report)}\n`, options)
  renameSync(`${path}.next`, path)
}

/** `undefined` where none has tried. */
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
  const isFile = (one: unknown) =>
    isObject(one) && ['file', 'place', 'error'].every((name) => typeof one[name] === 'string')
  return (
    Array.isArray(loaded) &&
    loaded.every((name) => typeof name === 'string') &&
    Array.isArray(loading) &&
    loading.every((name) => typeof name === 'string') &&
    Array.isArray(leftOut) &&
    leftOut.every((one) => isObject(one) && typeof one['file'] === 'string' && typeof one['reason'] === 'string') &&
    Array.isArray(broken) &&
    broken.every(isFile) &&
    (trouble === undefined || typeof trouble === 'string')
  )
}
