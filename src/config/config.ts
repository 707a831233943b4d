import { readFileSync } from 'node:fs'
import { resolve } from 'node:path'
import { type Hook, parseHooks } from '../bitrix24/incoming-webhook.ts'
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
  parseHookUrls,
  parseHost,
  parseHosts,
  parsePath,
  parseProxies,
  parseRobotPath,
  parseSilence,
  parseTokens,
  size,
  type Token,
  wholeNumber,
} from './values.ts'
import { type Env, findByteOrderMark, findMisspelt, type Misspelt, readText } from './env.ts'

export interface Config {
  readonly tokens: readonly Token[]
  /** Empty when handlers do not call Bitrix24. */
  readonly hooks: readonly Hook[]
  /** Requests a second that each portal gets. */
  readonly rate: number
  /** And so many at once before that. */
  readonly burst: number
  readonly port: number
  readonly host: string
  /** Without a trailing slash; a request may have one. */
  readonly webhookPath: string
  /** A secret. As `webhookPath`; `undefined` when no posts of robots are taken. */
  readonly robotPath: string | undefined
  /** Absolute. */
  readonly dataDir: string
  /** Absolute. */
  readonly handlersDir: string
  /** Bytes. */
  readonly bodyLimit: number
  /** Addresses and CIDRs whose `X-Forwarded-For` is believed. */
  readonly trustProxy: readonly string[]
  /** Addresses and CIDRs whose posts are taken, or `auto` for those that Bitrix24 publishes; `undefined` is anybody's. */
  readonly allowedIps: 'auto' | readonly string[] | undefined
  readonly logLevel: string
  readonly concurrency: number
  /** Milliseconds, as are all durations here. */
  readonly retryFor: number
  readonly handlerTimeout: number
  readonly shutdownGrace: number
  readonly dispatcher: boolean
  /** Where deliveries are, when they are not in `dataDir`; a secret. */
  readonly databaseUrl: string | undefined
  /** Whether this receiver's dispatcher runs handlers, too, where deliveries are in Postgres. */
  readonly worker: boolean
  readonly adminPort: number
  readonly adminHost: string
  /** Names by which the private listener may be called, in lower case. */
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
  /** Where alerts are posted; a secret as a whole. */
  readonly alertUrl: URL | undefined
  /** Without an event for so long an alert is sent. */
  readonly silenceAlarm: number | undefined
}

/** The environment is wrong; `problems` holds every one of them, ready to be printed, without any secret's value. */
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
  /** What an unset variable means; `undefined` where it must be set. */
  readonly default: string | undefined
  /** One line for `.env.example`. */
  readonly about: string
  /** May also come as NAME_FILE, and its value is never printed. */
  readonly secret?: true
}

const levels = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent']

/** Every variable we read, in the order in which `.env.example` lists them. */
export const settings = {
  B24_APPLICATION_TOKEN: {
    parse: parseTokens,
    default: undefined,
    about:
      "the token(s) shown in the outgoing webhook's settings, separated by commas, each optionally named: sales=abc; several may have one name",
    secret: true,
  },
  B24_HOOK: {
    parse: parseHookUrls,
    default: '',
    about:
      'the incoming webhook(s) through which handlers call Bitrix24, one URL, or several named like the tokens: sales=https://…',
    secret: true,
  },
  B24_RATE: {
    parse: wholeNumber(1, 1000),
    default: '2',
    about: 'requests a second to a portal, of all workers together; the Enterprise plan allows 5',
  },
  B24_BURST: {
    parse: wholeNumber(1, 10_000),
    default: '50',
    about: 'and so many at once before that; the Enterprise plan allows 250',
  },
  PORT: { parse: wholeNumber(0, 65535), default: '8080', about: 'port of the public listener' },
  HOST: { parse: parseHost, default: '0.0.0.0', about: 'address of the public listener' },
  WEBHOOK_PATH: { parse: parsePath, default: '/bitrix24', about: 'path of the handler URL' },
  ROBOT_PATH: {
    parse: parseRobotPath,
    default: '',
    about:
      'path of the URL for robots (outgoing webhooks of CRM automation), a secret: /robot/ and what openssl rand -hex 16 prints',
    secret: true,
  },
  ADMIN_PORT: {
    parse: wholeNumber(0, 65535),
    default: '9090',
    about: 'port of the private listener: /readyz, /metrics',
  },
  ADMIN_HOST: { parse: parseHost, default: '127.0.0.1', about: 'address of the private listener' },
  ADMIN_ALLOWED_HOSTS: {
    parse: parseHosts,
    default: '',
    about:
      'names by which the private listener may be called, beside localhost and IP addresses, separated by commas: receiver',
  },
  DATA_DIR: { parse: (text: string) => resolve(text), default: './data', about: 'journal and dispatch state' },
  HANDLERS_DIR: { parse: (text: string) => resolve(text), default: './src/handlers', about: 'your handler files' },
  BODY_LIMIT: { parse: size(1024, 64 * 1024 ** 2), default: '1MB', about: 'the longest body accepted' },
  TRUST_PROXY: {
    parse: parseProxies,
    default: '',
    about: 'addresses or CIDRs of proxies in front, separated by commas; their X-Forwarded-For is believed',
  },
  B24_ALLOWED_IPS: {
    parse: parseAllowedIps,
    default: '',
    about:
      'take posts only from these addresses or CIDRs, separated by commas, or auto: from those that Bitrix24 publishes',
  },
  SEGMENT_SIZE: {
    parse: size(1024, 1024 ** 3),
    default: '64MB',
    about: 'a segment of the journal that is larger is full',
  },
  RETENTION_DAYS: {
    parse: wholeNumber(1, 36500),
    default: '30',
    about: 'segments that were followed are removed after so long',
  },
  LOG_LEVEL: { parse: oneOf(levels), default: 'info', about: `diagnostic log on stdout: ${levels.join(', ')}` },
  CONCURRENCY: { parse: wholeNumber(1, 1000), default: '8', about: 'handlers running at once' },
  RETRY_FOR: { parse: duration(0, '90d'), default: '72h', about: 'how long a failing delivery is tried again' },
  HANDLER_TIMEOUT: { parse: duration(1, '1d'), default: '60s', about: 'one run of a handler, then its signal aborts' },
  HANDLER_STALL: {
    parse: duration(100, '1h'),
    default: '30s',
    about: 'a handler that blocks its process so long is killed',
  },
  HANDLER_LOAD_TIMEOUT: {
    parse: duration(100, '1h'),
    default: '30s',
    about: 'a handler file that is not loaded after so long is named, and the others run without it',
  },
  SHUTDOWN_GRACE: { parse: duration(0, '1h'), default: '8s', about: 'how long a stop may take; Docker kills at 10 s' },
  DISPATCH_FROM: {
    parse: parseFrom,
    default: '',
    about: 'only where dispatch.db was lost: oldest, now, or a time such as 2026-11-23T08:00:00Z',
  },
  BACKFILL_ON_START: {
    parse: parseBackfill,
    default: '',
    about:
      'records whose changes are looked for after a start, from the last event before it: deal,lead,task,item:1032',
  },
  DISPATCHER: { parse: oneOf(['on', 'off']), default: 'on', about: 'off: posts are journalled, no handler runs' },
  DATABASE_URL: {
    parse: parseDatabase,
    default: '',
    about:
      'deliveries are in this Postgres, for several machines: postgres://user:password@host/database (docs/scaling.md)',
    secret: true,
  },
  WORKERS: {
    parse: wholeNumber(0, 1),
    default: '1',
    about: 'with DATABASE_URL: 0 if this receiver runs no handlers, but only b24-receiver work does',
  },
  ALERT_URL: {
    parse: parseAlertUrl,
    default: '',
    about: 'alerts are posted to it as JSON; the URL of a method such as im.message.add will do',
    secret: true,
  },
  SILENCE_ALARM: {
    parse: parseSilence,
    default: '',
    about: 'an alert when no event came for so long, such as 2h; unset: none',
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
    // One line for it is enough.
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
    hooks: read('B24_HOOK'),
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
    worker: read('WORKERS') === 1,
    alertUrl: read('ALERT_URL'),
    silenceAlarm: read('SILENCE_ALARM'),
  }
  if (config.robotPath !== undefined && config.robotPath === config.webhookPath)
    problem('ROBOT_PATH', 'must differ from WEBHOOK_PATH, which is no secret')
  if (config.backfillOnStart !== undefined && config.hooks?.length === 0)
    problem('BACKFILL_ON_START', 'needs B24_HOOK, through which the portal is asked')
  if (problems.length === 0 && config.silenceAlarm !== undefined && config.alertUrl === undefined)
    problem('SILENCE_ALARM', 'is set, but nobody would hear it: set ALERT_URL too')
  if (problems.length === 0 && part === 'receiver' && config.backfillOnStart !== undefined && !config.dispatcher)
    problem(
      'BACKFILL_ON_START',
      'is done by the dispatcher that the receiver starts: not with DISPATCHER=off, where b24-receiver backfill does it',
    )
  if (problems.length > 0) throw new ConfigError(problems)
  return config
}

const wrongText = Symbol('a text or a file that cannot be used')

/** From the variable, or from the file that NAME_FILE names. */
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
 * `B24_HOOK` alone, for a tool that calls Bitrix24 and does nothing else; empty where it is not set.
 *
 * @throws {ConfigError}
 */
export function readHooks(env: Env): readonly Hook[] {
  const problems = problemsOfFile(env)
  const text = readSecret(env, 'B24_HOOK', (name, what) => problems.push(`${name} ${what}`))
  try {
    if (typeof text === 'string' && problems.length === 0) return parseHooks(text)
  } catch (error) {
    problems.push(`B24_HOOK ${error instanceof Error ? error.message : String(error)}`)
  }
  if (problems.length > 0) throw new ConfigError(problems)
  return []
}

/**
 * `B24_APPLICATION_TOKEN` alone, for a tool that posts as Bitrix24 does.
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

/** Every name that we read. DOMAIN and the like are compose.yaml's. */
const names = Object.entries(settings).flatMap(([name, setting]) =>
  'secret' in setting ? [name, `${name}_FILE`] : [name],
)

/** Variables that are nearly one of our settings, and so are not in effect. */
export function misspeltSettings(env: Env): readonly Misspelt[] {
  // Its name was another once: it would be ignored without a word.
  const renamed = 'SWEEP_ON_START' in env ? [{ name: 'SWEEP_ON_START', nearest: 'BACKFILL_ON_START' }] : []
  return [...findMisspelt(env, names), ...renamed]
}

/** The environment without what is ours, for a receiver with settings of its own. */
export function withoutSettings(env: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  const ours = new Set(Object.keys(settings).flatMap((name) => [name, `${name}_FILE`]))
  return Object.fromEntries(Object.entries(env).filter(([name]) => !ours.has(name)))
}

/** Where compose.yaml lets Bitrix24 call, for a tool; `undefined` where DOMAIN, which no part of ours needs, is not set. */
export function readPublicUrl(env: Env): string | undefined {
  const { DOMAIN: domain } = env
  return domain ? `https://${domain}${readSettings(env, 'WEBHOOK_PATH').WEBHOOK_PATH}` : undefined
}

/**
 * These settings alone, for tools: it must not take a token to read a log.
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
 * `DATABASE_URL`, for tools; `undefined` where deliveries are in the data directory.
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
