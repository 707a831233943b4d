import { type Env, findByteOrderMark, readSecret, readText } from './env.ts'
import { type Setting, settings } from './settings.ts'
import { Problem } from './values.ts'

/** The value of each setting; `src/config/settings.ts` describes them. */
export type Config = {
  readonly [K in keyof typeof settings]: Exclude<ReturnType<(typeof settings)[K]['parse']>, Problem>
}

type Key = keyof Config

/** The environment is wrong. `problems` lists every problem, ready to print and without the value of a secret. */
export class ConfigError extends Error {
  override readonly name = 'ConfigError'
  readonly problems: readonly string[]

  constructor(problems: readonly string[]) {
    super(`Configuration: ${problems.length} problem${problems.length === 1 ? '' : 's'}\n  ${problems.join('\n  ')}`)
    this.problems = problems
  }
}

/**
 * Reads the environment. Empty variables count as unset. A dispatcher needs no token and reads none.
 *
 * @throws {ConfigError} with every problem at once
 */
export function readConfig(env: Env, reader: 'receiver' | 'dispatcher' = 'receiver'): Config {
  const keys = Object.keys(settings) as Key[]
  const found = read(env, keys, reader)
  const { values, problems, report } = found
  if (values.robotPath !== undefined && values.robotPath === values.webhookPath)
    report('ROBOT_PATH', 'must differ from WEBHOOK_PATH, which is no secret')
  if (values.backfillOnStart !== undefined && values.incomingWebhooks?.length === 0)
    report('BACKFILL_ON_START', 'needs B24_HOOK, through which the portal is asked')
  if (problems.length === 0 && values.alertAfterSilence !== undefined && values.alertUrl === undefined)
    report('ALERT_AFTER_SILENCE', 'is set, but alerts have no target: set ALERT_URL too')
  if (problems.length === 0 && reader === 'receiver' && values.backfillOnStart !== undefined && !values.dispatcher)
    report(
      'BACKFILL_ON_START',
      'is done by the dispatcher that the receiver starts: not with DISPATCHER=off, where b24-receiver backfill does it',
    )
  return complete(found, keys)
}

/**
 * Reads only these settings, for tools: reading a log must not require a token.
 *
 * @throws {ConfigError}
 */
export function readSettings<const K extends Key>(env: Env, ...keys: readonly K[]): Pick<Config, K> {
  return complete(read(env, keys, 'tool'), keys)
}

/**
 * Returns the URL at which Bitrix24 reaches a receiver run by compose.yaml; `undefined` if DOMAIN, which only
 * compose.yaml needs, is not set.
 */
export function readPublicUrl(env: Env): string | undefined {
  const { DOMAIN: domain } = env
  return domain ? `https://${domain}${readSettings(env, 'webhookPath').webhookPath}` : undefined
}

type Values = { -readonly [K in Key]?: Config[K] }

interface Found {
  /** Without the settings that have a problem. */
  readonly values: Values
  readonly problems: string[]
  readonly report: (name: string, text: string) => void
}

const rows: { readonly [K in Key]: Setting<Config[K]> } = settings

function read(env: Env, keys: readonly Key[], reader: 'receiver' | 'dispatcher' | 'tool'): Found {
  const values: Values = {}
  const byteOrderMark = findByteOrderMark(env)
  const problems = byteOrderMark === undefined ? [] : [byteOrderMark]
  const report = (name: string, text: string) => void problems.push(`${name.padEnd(22)} ${text}`)

  function readOne<K extends Key>(key: K): void {
    const { name, isSecret, onlyReceiver, requiredFrom, default: standard = '', parse } = rows[key]
    const isRead = reader !== 'dispatcher' || !onlyReceiver
    const text = isRead ? (isSecret ? readSecret : readText)(env, name) : undefined
    const isMissing = text === undefined && requiredFrom !== undefined && reader === 'receiver'
    const value = text instanceof Problem ? text : parse(text ?? standard)
    if (isMissing) report(name, `is required: ${requiredFrom}`)
    else if (!(value instanceof Problem)) values[key] = value
    else report(value.variable ?? name, isSecret ? value.text : `${value.text}, got ${JSON.stringify(env[name])}`)
  }

  for (const key of keys) readOne(key)
  return { values, problems, report }
}

/** @throws {ConfigError} */
function complete<K extends Key>({ values, problems }: Found, keys: readonly K[]): Pick<Config, K> {
  if (problems.length === 0 && hasEvery(values, keys)) return values
  throw new ConfigError(problems)
}

function hasEvery<K extends Key>(values: Values, keys: readonly K[]): values is Values & Pick<Config, K> {
  return keys.every((key) => key in values)
}
