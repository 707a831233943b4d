import type { Logger } from 'pino'
import type { Alerter } from './alerts/alerter.ts'
import { tokensWithoutHook } from './bitrix24/hook.ts'
import { type Config, readConfig } from './config.ts'
import type { Tokens } from './intake/token.ts'
import type { Supervisor } from './supervisor.ts'

export interface ReloadParts {
  readonly tokens: Tokens
  readonly supervisor: Supervisor | undefined
  readonly alerter: Alerter | undefined
  readonly log: Logger
}

/** Secrets that come as files are read again; the handlers are loaded anew. */
export async function reload({ tokens, supervisor, alerter, log }: ReloadParts): Promise<void> {
  try {
    const config = readConfig(process.env)
    tokens.replace(config.tokens)
    log.info({ tokens: config.tokens.map((token) => token.name ?? 'unnamed') }, 'reloading')
    warnOfLackingHooks(config, log)
  } catch (error) {
    log.error({ err: error }, 'the settings are wrong: the tokens stay as they were')
  }
  alerter?.reload()
  await supervisor?.reload()
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
