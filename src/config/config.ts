import { readFileSync } from 'node:fs'
import { resolve } from 'node:path'
import { type IncomingWebhook, parseIncomingWebhooks } from '../bitrix24/incoming-webhook.ts'
import { type Env, findByteOrderMark, findMisspelt, type Misspelt, readText } from './env.ts'
import {
  duration,
  oneOf,
  type Parse,
  Problem,
  parseAlertUrl,
  parseAllowedIps,
  parseBackfill,
  parseDatabase,
  parseFrom,
  parseHost,
  parseHosts,
  parseIncomingWebhookUrls,
  parsePath,
  parseProxies,
  parseRobotPath,
  parseSilence,
  parseTokens,
  size,
  type Token,
  wholeNumber,
} from './values.ts'

export interface Config {
  readonly tokens: readonly Token[]
  /** Empty if handlers do not call Bitrix24. */
  readonly incomingWebhooks: readonly IncomingWebhook[]
  /** Requests per second to each portal. */
  readonly rate: number
  /** Requests that may be sent at once before `rate` applies. */
  readonly burst: number
  readonly port: number
  readonly host: string
  /** Without a trailing slash. A request may have one. */
  readonly webhookPath: string
  /** A secret, in the form of `webhookPath`. `undefined` if no posts of robots are taken. */
  readonly robotPath: string | undefined
  /** An absolute path. */
  readonly dataDir: string
  /** An absolute path. */
  readonly handlersDir: string
  /** Bytes. */
  readonly bodyLimit: number
  /** Addresses and CIDRs whose `X-Forwarded-For` is believed. */
  readonly trustProxy: readonly string[]
  /** Addresses and CIDRs whose posts are taken, or `auto` for those that Bitrix24 publishes. `undefined`: all addresses. */
  readonly allowedIps: 'auto' | readonly string[] | undefined
  readonly logLevel: string
  readonly concurrency: number
  /** Milliseconds, like all durations here. */
  readonly retryFor: number
  readonly handlerTimeout: number
  readonly shutdownGrace: number
  readonly dispatcher: boolean
  /** A secret. Where deliveries are stored if not in `dataDir`. */
  readonly databaseUrl: string | undefined
  /** Whether this receiver's dispatcher also runs handlers if deliveries are in Postgres. */
  readonly worker: boolean
  readonly adminPort: number
  readonly adminHost: string
  /** Host names that the private listener answers to, in lower case. */
  readonly adminAllowedHosts: readonly string[]
  /** Bytes. */
  readonly segmentSize: number
  readonly retentionDays: number
  readonly handlerStall: number
  readonly handlerLoadTimeout: number
  /** Kinds of records, such as `deal,lead`; `undefined` for none. */
  readonly backfillOnStart: string | undefined
  /** `oldest`, `now` or a time in ISO 8601. */
  readonly dispatchFrom: string | undefined
  /** Where alerts are posted. The whole URL is a secret. */
  readonly alertUrl: URL | undefined
  /** The time without an event after which an alert is sent. */
  readonly alertAfterSilence: number | undefined
}

/** The environment is wrong. `problems` lists every problem, ready to print and without the value of a secret. */
export class ConfigError extends Error {
  override readonly name = 'ConfigError'
  readonly problems: readonly string[]

  constructor(problems: readonly string[]) {
    super(`Configuration: ${problems.length} problem${problems.length === 1 ? '' : 's'}\n  ${problems.join('\n  ')}`)
    this.problems = problems
  }
}

interface Setting<T> {
  readonly parse: Parse<T>
  /** The value of an unset variable; `undefined` if it must be set. */
  readonly default: string | undefined
  /** The line for `.env.example`. */
  readonly description: string
  /** The setting may also come as NAME_FILE, and its value is never printed. */
  readonly secret?: true
}

const levels = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent']

/** Every variable that the program reads, in the order of `.env.example`. */
export const settings = {
  B24_APPLICATION_TOKEN: {
    parse: parseTokens,
    default: undefined,
    description:
      "the token(s) shown in the outgoing webhook's settings, separated by commas, each optionally named: sales=abc; several may have one name",
    secret: true,
  },
  B24_HOOK: {
    parse: parseIncomingWebhookUrls,
    default: '',
    description:
      'the incoming webhook(s) through which handlers call Bitrix24, one URL, or several named like the tokens: sales=https://…',
    secret: true,
  },
  B24_RATE: {
    parse: wholeNumber(1, 1000),
    default: '2',
    description: 'requests a second to a portal, of all workers together; the Enterprise plan allows 5',
  },
  B24_BURST: {
    parse: wholeNumber(1, 10_000),
    default: '50',
    description: 'requests that may be sent at once before the rate applies; the Enterprise plan allows 250',
  },
  PORT: { parse: wholeNumber(0, 65535), default: '8080', description: 'port of the public listener' },
  HOST: { parse: parseHost, default: '0.0.0.0', description: 'address of the public listener' },
  WEBHOOK_PATH: { parse: parsePath, default: '/bitrix24', description: 'path of the handler URL' },
  ROBOT_PATH: {
    parse: parseRobotPath,
    default: '',
    description:
      'path of the URL for robots (outgoing webhooks of CRM automation), a secret: /robot/ and what openssl rand -hex 16 prints',
    secret: true,
  },
  ADMIN_PORT: {
    parse: wholeNumber(0, 65535),
    default: '9090',
    description: 'port of the private listener: /readyz, /metrics',
  },
  ADMIN_HOST: { parse: parseHost, default: '127.0.0.1', description: 'address of the private listener' },
  ADMIN_ALLOWED_HOSTS: {
    parse: parseHosts,
    default: '',
    description:
      'names by which the private listener may be called, beside localhost and IP addresses, separated by commas: receiver',
  },
  DATA_DIR: { parse: (text: string) => resolve(text), default: './data', description: 'journal and dispatch state' },
  HANDLERS_DIR: {
    parse: (text: string) => resolve(text),
    default: './examples/handlers',
    description: 'your handler files',
  },
  BODY_LIMIT: { parse: size(1024, 64 * 1024 ** 2), default: '1MB', description: 'the longest body that is accepted' },
  TRUST_PROXY: {
    parse: parseProxies,
    default: '',
    description: 'addresses or CIDRs of proxies in front, separated by commas; their X-Forwarded-For is believed',
  },
  B24_ALLOWED_IPS: {
    parse: parseAllowedIps,
    default: '',
    description:
      'take posts only from these addresses or CIDRs, separated by commas, or auto: from those that Bitrix24 publishes',
  },
  SEGMENT_SIZE: {
    parse: size(1024, 1024 ** 3),
    default: '64MB',
    description: 'a segment of the journal ends at this size',
  },
  RETENTION_DAYS: {
    parse: wholeNumber(1, 36500),
    default: '30',
    description: 'segments that were followed are removed after this many days',
  },
  LOG_LEVEL: { parse: oneOf(levels), default: 'info', description: `diagnostic log on stdout: ${levels.join(', ')}` },
  CONCURRENCY: { parse: wholeNumber(1, 1000), default: '8', description: 'handlers running at once' },
  RETRY_FOR: { parse: duration(0, '90d'), default: '72h', description: 'how long a failing delivery is tried again' },
  HANDLER_TIMEOUT: {
    parse: duration(1, '1d'),
    default: '60s',
    description: 'the time for one run of a handler; then its signal aborts',
  },
  HANDLER_STALL: {
    parse: duration(100, '1h'),
    default: '30s',
    description: 'a handler that blocks its process for this long is killed',
  },
  HANDLER_LOAD_TIMEOUT: {
    parse: duration(100, '1h'),
    default: '30s',
    description: 'a handler file that is not loaded after this long is reported, and the others run without it',
  },
  SHUTDOWN_GRACE: {
    parse: duration(0, '1h'),
    default: '8s',
    description: 'how long a stop may take; Docker kills at 10 s',
  },
  DISPATCH_FROM: {
    parse: parseFrom,
    default: '',
    description: 'only if dispatch.db was lost: oldest, now, or a time such as 2026-11-23T08:00:00Z',
  },
  BACKFILL_ON_START: {
    parse: parseBackfill,
    default: '',
    description:
      'records whose changes are looked for after a start, from the last event before it: deal,lead,task,item:1032',
  },
  DISPATCHER: { parse: oneOf(['on', 'off']), default: 'on', description: 'off: posts are journalled, no handler runs' },
  DATABASE_URL: {
    parse: parseDatabase,
    default: '',
    description:
      'deliveries are in this Postgres, for several machines: postgres://user:password@host/database (docs/scaling.md)',
    secret: true,
  },
  RUN_HANDLERS: {
    parse: oneOf(['on', 'off']),
    default: 'on',
    description: 'with DATABASE_URL: off if this receiver runs no handlers, but only b24-receiver worker does',
  },
  ALERT_URL: {
    parse: parseAlertUrl,
    default: '',
    description: 'alerts are posted to it as JSON; the URL of a method such as im.message.add will do',
    secret: true,
  },
  ALERT_AFTER_SILENCE: {
    parse: parseSilence,
    default: '',
    description: 'an alert is sent if no event has come for this long, such as 2h; unset: none',
  },
} as const satisfies Record<string, Setting<unknown>>

type Name = keyof typeof settings
type Value<N extends Name> = Exclude<ReturnType<(typeof settings)[N]['parse']>, Problem>

/**
 * Reads the environment. Empty variables count as unset. A dispatcher needs no token and reads none.
 *
 * @throws {ConfigError} with every problem at once
 */
export function readConfig(env: Env, part: 'receiver' | 'dispatcher' = 'receiver'): Config {
  const problems = problemsOfFile(env)
  const problem = (name: string, text: string) => problems.push(`${name.padEnd(22)} ${text}`)

  const read = <N extends Name>(name: N): Value<N> => {
    const setting: Setting<unknown> = settings[name]
    const found = setting.secret ? readSecret(env, name, problem) : readText(env, name)
    if (found instanceof Problem) problem(name, `${found.text}, got ${JSON.stringify(env[name])}`)
    // The problem is already reported.
    if (found === wrongText || found instanceof Problem) return undefined as Value<N>
    const text = found ?? setting.default
    if (text === undefined) {
      problem(name, 'is required: the token shown under Developer resources → Outgoing webhook')
      return undefined as Value<N>
    }
    const value = setting.parse(text)
    if (value instanceof Problem) problem(name, setting.secret ? value.text : `${value.text}, got "${text}"`)
    return value as Value<N>
  }

  const config: Config = {
    tokens: part === 'receiver' ? read('B24_APPLICATION_TOKEN') : [],
    incomingWebhooks: read('B24_HOOK'),
    rate: read('B24_RATE'),
    burst: read('B24_BURST'),
    port: read('PORT'),
    host: read('HOST'),
    webhookPath: read('WEBHOOK_PATH'),
    robotPath: part === 'receiver' ? read('ROBOT_PATH') : undefined,
    adminPort: read('ADMIN_PORT'),
    adminHost: read('ADMIN_HOST'),
    adminAllowedHosts: read('ADMIN_ALLOWED_HOSTS'),
    dataDir: read('DATA_DIR'),
    handlersDir: read('HANDLERS_DIR'),
    bodyLimit: read('BODY_LIMIT'),
    trustProxy: read('TRUST_PROXY'),
    allowedIps: read('B24_ALLOWED_IPS'),
    segmentSize: read('SEGMENT_SIZE'),
    retentionDays: read('RETENTION_DAYS'),
    logLevel: read('LOG_LEVEL'),
    concurrency: read('CONCURRENCY'),
    retryFor: read('RETRY_FOR'),
    handlerTimeout: read('HANDLER_TIMEOUT'),
    handlerStall: read('HANDLER_STALL'),
    handlerLoadTimeout: read('HANDLER_LOAD_TIMEOUT'),
    shutdownGrace: read('SHUTDOWN_GRACE'),
    dispatchFrom: read('DISPATCH_FROM'),
    backfillOnStart: read('BACKFILL_ON_START'),
    dispatcher: read('DISPATCHER') === 'on',
    databaseUrl: read('DATABASE_URL'),
    worker: read('RUN_HANDLERS') === 'on',
    alertUrl: read('ALERT_URL'),
    alertAfterSilence: read('ALERT_AFTER_SILENCE'),
  }
  if (config.robotPath !== undefined && config.robotPath === config.webhookPath)
    problem('ROBOT_PATH', 'must differ from WEBHOOK_PATH, which is no secret')
  if (config.backfillOnStart !== undefined && config.incomingWebhooks?.length === 0)
    problem('BACKFILL_ON_START', 'needs B24_HOOK, through which the portal is asked')
  if (problems.length === 0 && config.alertAfterSilence !== undefined && config.alertUrl === undefined)
    problem('ALERT_AFTER_SILENCE', 'is set, but alerts have no target: set ALERT_URL too')
  if (problems.length === 0 && part === 'receiver' && config.backfillOnStart !== undefined && !config.dispatcher)
    problem(
      'BACKFILL_ON_START',
      'is done by the dispatcher that the receiver starts: not with DISPATCHER=off, where b24-receiver backfill does it',
    )
  if (problems.length > 0) throw new ConfigError(problems)
  return config
}

const wrongText = Symbol('a text or a file that cannot be used')

/** Reads the variable, or the file that NAME_FILE names. */
function readSecret(
  env: Env,
  name: string,
  problem: (name: string, text: string) => void,
): string | undefined | typeof wrongText {
  const text = readText(env, name)
  const file = readText(env, `${name}_FILE`)
  if (text instanceof Problem) problem(name, text.text)
  if (file instanceof Problem) problem(`${name}_FILE`, file.text)
  if (text instanceof Problem || file instanceof Problem) return wrongText
  if (file === undefined) return text
  if (text !== undefined) {
    problem(name, `is set, and so is ${name}_FILE: set one of them`)
    return text
  }
  try {
    const content = readText({ content: readFileSync(file, 'utf8') }, 'content')
    if (typeof content === 'string') return content
    problem(
      `${name}_FILE`,
      `${file} ${content === undefined || /^is blank/.test(content.text) ? 'is empty' : content.text}`,
    )
  } catch (error) {
    problem(`${name}_FILE`, `cannot be read: ${error instanceof Error ? error.message : String(error)}`)
  }
  return wrongText
}

/**
 * Reads only `B24_HOOK`, for a tool that only calls Bitrix24. Returns an empty list if it is not set.
 *
 * @throws {ConfigError}
 */
export function readIncomingWebhooks(env: Env): readonly IncomingWebhook[] {
  const problems = problemsOfFile(env)
  const text = readSecret(env, 'B24_HOOK', (name, what) => problems.push(`${name} ${what}`))
  try {
    if (typeof text === 'string' && problems.length === 0) return parseIncomingWebhooks(text)
  } catch (error) {
    problems.push(`B24_HOOK ${error instanceof Error ? error.message : String(error)}`)
  }
  if (problems.length > 0) throw new ConfigError(problems)
  return []
}

/**
 * Reads only `B24_APPLICATION_TOKEN`, for a tool that posts as Bitrix24 does.
 *
 * @throws {ConfigError}
 */
export function readTokens(env: Env): readonly Token[] {
  const problems = problemsOfFile(env)
  const text = readSecret(env, 'B24_APPLICATION_TOKEN', (name, what) => problems.push(`${name} ${what}`))
  if (typeof text === 'string' && problems.length === 0) {
    const tokens = parseTokens(text)
    if (!(tokens instanceof Problem)) return tokens
    problems.push(`B24_APPLICATION_TOKEN ${tokens.text}`)
  }
  throw new ConfigError(problems.length > 0 ? problems : ['B24_APPLICATION_TOKEN is not set'])
}

function problemsOfFile(env: Env): string[] {
  const mark = findByteOrderMark(env)
  return mark === undefined ? [] : [mark]
}

/** Every name that the program reads. DOMAIN and similar names are for compose.yaml. */
const names = Object.entries(settings).flatMap(([name, setting]) =>
  'secret' in setting ? [name, `${name}_FILE`] : [name],
)

/** The old names have no effect. Ignoring them silently would change what a receiver does. */
const renamedSettings = {
  SWEEP_ON_START: 'BACKFILL_ON_START',
  WORKERS: 'RUN_HANDLERS',
  SILENCE_ALARM: 'ALERT_AFTER_SILENCE',
}

/** Returns variables that are close to a setting's name, and so have no effect. */
export function misspeltSettings(env: Env): readonly Misspelt[] {
  const renamed = Object.entries(renamedSettings).flatMap(([name, nearest]) => (name in env ? [{ name, nearest }] : []))
  return [...findMisspelt(env, names), ...renamed]
}

/** Returns the environment without this program's settings, for a receiver that gets its own. */
export function withoutSettings(env: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  const ours = new Set(Object.keys(settings).flatMap((name) => [name, `${name}_FILE`]))
  return Object.fromEntries(Object.entries(env).filter(([name]) => !ours.has(name)))
}

/**
 * Returns the URL at which Bitrix24 reaches a receiver run by compose.yaml; `undefined` if DOMAIN, which only
 * compose.yaml needs, is not set.
 */
export function readPublicUrl(env: Env): string | undefined {
  const { DOMAIN: domain } = env
  return domain ? `https://${domain}${readSettings(env, 'WEBHOOK_PATH').WEBHOOK_PATH}` : undefined
}

/**
 * Reads only these settings, for tools: reading a log must not require a token.
 *
 * @throws {ConfigError}
 */
export function readSettings<const N extends Exclude<Name, 'B24_APPLICATION_TOKEN'>>(
  env: Env,
  ...names: readonly N[]
): { readonly [Each in N]: Value<Each> } {
  const problems = problemsOfFile(env)
  const values = names.map((name) => {
    const text = readText(env, name)
    const value = text instanceof Problem ? text : settings[name].parse(text ?? settings[name].default)
    if (value instanceof Problem) problems.push(`${name} ${value.text}`)
    return [name, value]
  })
  if (problems.length > 0) throw new ConfigError(problems)
  return Object.fromEntries(values)
}

/**
 * Reads `DATABASE_URL`, for tools. Returns `undefined` if deliveries are in the data directory.
 *
 * @throws {ConfigError}
 */
export function readDatabaseUrl(env: Env): string | undefined {
  const problems = problemsOfFile(env)
  const text = readSecret(env, 'DATABASE_URL', (name, what) => problems.push(`${name} ${what}`))
  const url = typeof text === 'string' ? parseDatabase(text) : undefined
  if (url instanceof Problem) problems.push(`DATABASE_URL ${url.text}`)
  if (url instanceof Problem || problems.length > 0) throw new ConfigError(problems)
  return url
}
