import type { Logger } from 'pino'
import type { Alerter } from '../alerts/alerter.ts'
import { tokensWithoutHook } from '../bitrix24/incoming-webhook.ts'
import { type Config, ConfigError, readConfig } from '../config/config.ts'
import { weakTokens } from '../config/values.ts'
import type { Tokens } from '../intake/token.ts'
import { type ReloadReport, writeReloadReport } from './reload-report.ts'
import type { Supervisor } from './supervisor.ts'

export interface ReloadParts {
  /** What holds at the start. */
  readonly config: Config
  readonly tokens: Tokens
  readonly supervisor: Supervisor | undefined
  readonly alerter: Alerter | undefined
  readonly log: Logger
}

/**
 * Secrets that come as files are read again, and the handlers are loaded again. Where a setting is wrong nothing is: a
 * dispatcher that reads the same file would not start either.
 */
export function createReload({ config, tokens, supervisor, alerter, log }: ReloadParts): () => Promise<void> {
  let current = config

  function read(): ReloadReport {
    const at = Date.now()
    try {
      const next = readConfig(process.env)
      const warnings = [...findRemoved(current, next), ...weakTokens(next.tokens)]
      tokens.replace(next.tokens)
      current = next
      log.info({ tokens: next.tokens.map((token) => token.name ?? 'unnamed') }, 'reloading')
      for (const warning of warnings) log.warn(warning)
      warnOfLackingHooks(next, log)
      return { at, problems: [], warnings }
    } catch (error) {
      log.error({ err: error }, 'the settings are wrong: nothing is reloaded, tokens and handlers stay as they were')
      return { at, problems: error instanceof ConfigError ? error.problems : [String(error)], warnings: [] }
    }
  }

  return async () => {
    const report = read()
    try {
      writeReloadReport(config.dataDir, report)
    } catch (error) {
      log.warn({ err: error }, 'what became of the settings could not be written down for "b24-receiver reload"')
    }
    if (report.problems.length > 0) return
    alerter?.reload()
    await supervisor?.reload()
  }
}

/** Names that are gone, which is what a slip of the pen looks like: events of theirs may still be pending. */
function findRemoved(before: Config, after: Config): string[] {
  const gone = (list: (config: Config) => readonly { readonly name: string | undefined }[]) => {
    const left = new Set(list(after).map(({ name }) => name))
    return [...new Set(list(before).map(({ name }) => name))].filter((name) => !left.has(name))
  }
  const called = (name: string | undefined) => (name === undefined ? 'without a name' : `named "${name}"`)
  return [
    ...gone(({ tokens }) => tokens).map(
      (name) => `B24_APPLICATION_TOKEN has no token ${called(name)} any more: posts with it are refused`,
    ),
    ...gone(({ hooks }) => hooks).map(
      (name) =>
        `B24_HOOK has no incoming webhook ${called(name)} any more: handlers cannot call its portal, also for events that are pending`,
    ),
  ]
}

/** A name that was misspelt, or left out of one of both. */
export function warnOfLackingHooks({ hooks, tokens }: Pick<Config, 'hooks' | 'tokens'>, log: Logger): void {
  for (const token of tokensWithoutHook(hooks, tokens))
    log.warn({ token }, 'B24_HOOK has no URL of this name: events of this token wait whose handlers call Bitrix24')
}

/**
 * What means reload. Where somebody sits at the terminal its hang-up means stop; and `b24-receiver reload` cannot know
 * whether somebody does.
 */
export function reloadSignals(): ('SIGHUP' | 'SIGUSR2')[] {
  return process.stdin.isTTY || process.stdout.isTTY ? ['SIGUSR2'] : ['SIGUSR2', 'SIGHUP']
}

/** A signal that comes before there is anything to reload must not end us: it is done when there is. */
export function takeSignals(signals: readonly NodeJS.Signals[]): (reload: () => void) => void {
  let isDue = false
  let act = () => {
    isDue = true
  }
  for (const signal of signals) process.on(signal, () => act())
  return (reload) => {
    act = reload
    if (isDue) reload()
  }
}
