import type { Logger } from 'pino'
import type { Config } from '../config/config.ts'
import { HandlersError, nameOf } from '../handler/handler-files.ts'
import { type LoadedFiles, loadHandlers } from '../handler/loader.ts'
import { lateReason } from './absent.ts'
import { type BrokenFile, type LoadReport, readLoadReport } from './load-report.ts'
import type { Report } from './report.ts'

export interface LoadDeps {
  readonly config: Pick<Config, 'handlersDir' | 'handlerLoadTimeout' | 'dataDir'>
  /** Another dispatcher works, and keeps working if this one cannot load every file. */
  readonly isReplacing: boolean
  /** The previous dispatcher ended by itself while it loaded the handlers. */
  readonly isAfterEnd: boolean
  readonly findKnownHandlers: () => Promise<readonly string[]>
  readonly report: Pick<Report, 'send' | 'load'>
  readonly log: Logger
}

/**
 * @throws {HandlersError} also for a file that is late or no longer a handler, if this dispatcher replaces one that works
 */
export async function load(deps: LoadDeps): Promise<Omit<LoadedFiles, 'problems'>> {
  const { config, isReplacing, isAfterEnd, findKnownHandlers, report, log } = deps
  const { handlersDir: dir, handlerLoadTimeout: timeout } = config
  const broken = isAfterEnd ? blame(deps) : []
  const found = await loadHandlers(dir, { timeout, onLoading: (loading) => report.load({ broken, loading }) })
  for (const { file, reason, isDoubtful } of found.leftOut)
    log[isDoubtful ? 'warn' : 'info']({ file, reason }, 'a file is left out: it is no handler')
  if (!isReplacing) return found
  const doubtful = found.leftOut.filter(({ isDoubtful }) => isDoubtful)
  const known = doubtful.length > 0 ? await findKnownHandlers() : []
  const problems = [
    ...found.late.map(({ file }) => ({ file, reason: `it ${lateReason(timeout)}` })),
    ...doubtful.filter(({ file }) => known.includes(nameOf(file))),
  ].map(({ file, reason }) => ({ file, at: file, error: new Error(reason) }))
  if (problems.length > 0) throw new HandlersError(dir, problems)
  return found
}

/** Reports which files were being loaded when the previous process ended. That process could not report them. */
function blame({ config, isReplacing, report, log }: LoadDeps): BrokenFile[] {
  const files = readLastReport(config.dataDir)?.loading ?? []
  if (files.length === 0) return []
  const error =
    'the dispatcher ended while it was loaded: does it call process.exit(), or run for ever, at its top level?'
  for (const file of files) log.error({ file }, 'the dispatcher ended while it loaded this file')
  if (!isReplacing) report.send({ type: 'trouble', reason: `${files.join(' or ')}: ${error}` })
  return files.map((file) => ({ file, place: file, error }))
}

/** The report is for tools only, so handlers run even if it cannot be read. */
function readLastReport(dataDir: string): LoadReport | undefined {
  try {
    return readLoadReport(dataDir)
  } catch {
    return undefined
  }
}
