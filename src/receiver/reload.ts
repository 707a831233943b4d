import type { Logger } from 'pino'
import type { Alerter } from '../alerts/alerter.ts'
import { tokensWithoutIncomingWebhook } from '../bitrix24/incoming-webhook.ts'
import { type Config, ConfigError, readConfig } from '../config/config.ts'
import { weakTokens } from '../config/values.ts'
import type { Tokens } from '../intake/token.ts'
import { type ReloadReport, writeReloadReport } from './reload-report.ts'
import type { Supervisor } from './supervisor.ts'

export interface ReloadDeps {
  /** The settings at the start. */
  readonly config: Config
  readonly tokens: Tokens
  readonly supervisor: Supervisor | undefined
  readonly alerter: Alerter | undefined
  readonly log: Logger
}

/**
 * Reads the secrets that are files again, and loads the handlers again. If a setting is wrong, it does neither: a
 * dispatcher that reads the same file would not start.
 */
export function createReload({ config, tokens, supervisor, alerter, log }: ReloadDeps): () => Promise<void> {
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
      warnOfLackingIncomingWebhooks(next, log)
      return { at, problems: [], warnings }
    } catch (error) {
      log.error({ err: error }, 'the settings are wrong: nothing is reloaded, tokens and handlers stay as they were')
      return { at, problems: error instanceof ConfigError ? error.problems : [String(error)], warnings: [] }
    }
  }

  return async () => {
    const report = read()
    try {
      await writeReloadReport(config.dataDir, report)
    } catch (error) {
      log.warn({ err: error }, 'what became of the settings could not be written down for "b24-receiver reload"')
    }
    if (report.problems.length > 0) return
    alerter?.reload(current.alertUrl)
    supervisor?.reload()
  }
}

/** Warns of names that are gone, which may be a typing error. Their events may still be pending. */
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
    ...gone(({ incomingWebhooks }) => incomingWebhooks).map(
      (name) =>
        `B24_HOOK has no incoming webhook ${called(name)} any more: handlers cannot call its portal, also for events that are pending`,
    ),
  ]
}

/** Finds a name that is misspelt, or missing in one of the two settings. */
export function warnOfLackingIncomingWebhooks(
  { incomingWebhooks, tokens }: Pick<Config, 'incomingWebhooks' | 'tokens'>,
  log: Logger,
): void {
  for (const token of tokensWithoutIncomingWebhook(incomingWebhooks, tokens))
    log.warn({ token }, 'B24_HOOK has no URL of this name: events of this token wait whose handlers call Bitrix24')
}

/**
 * Returns the signals that mean reload. At a terminal, SIGHUP means that it was closed, so the receiver stops. SIGUSR2
 * always means reload, because `b24-receiver reload` cannot know whether there is a terminal.
 */
export function reloadSignals(): ('SIGHUP' | 'SIGUSR2')[] {
  return process.stdin.isTTY || process.stdout.isTTY ? ['SIGUSR2'] : ['SIGUSR2', 'SIGHUP']
}

/** A signal that arrives before a reload is possible must not end the process. The reload runs once it is possible. */
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
