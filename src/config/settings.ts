import { resolve } from 'node:path'
import { parseIncomingWebhooks } from '../bitrix24/incoming-webhook.ts'
import {
  catching,
  duration,
  oneOf,
  onOrOff,
  optional,
  type Parse,
  parseAlertUrl,
  parseAllowedIps,
  parseBackfill,
  parseDatabase,
  parseFrom,
  parseHost,
  parseHosts,
  parsePath,
  parseProxies,
  parseRobotPath,
  parseTokens,
  size,
  wholeNumber,
} from './values.ts'

export interface Setting<T> {
  /** The variable in the environment. */
  readonly name: string
  readonly parse: Parse<T>
  /** The text that is parsed if the variable is unset; '' by default. */
  readonly default?: string
  /** The line for `.env.example` and `docs/settings.md`. */
  readonly description: string
  /** Heads this setting and those after it in `.env.example` and `docs/settings.md`. */
  readonly heading?: string
  /** The setting may also come as NAME_FILE, and its value is never printed. */
  readonly isSecret?: true
  /** A dispatcher does not read it: there it has the value of an unset variable. */
  readonly onlyReceiver?: true
  /** Where to find the value, if a receiver does not start without it. */
  readonly requiredFrom?: string
}

const levels = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent']

/**
 * Every variable that the program reads, by its name in `Config` and in the order of `.env.example`. Durations are
 * milliseconds in `Config`, and sizes are bytes.
 */
export const settings = {
  tokens: {
    heading: 'Bitrix24',
    name: 'B24_APPLICATION_TOKEN',
    parse: optional(parseTokens, []),
    requiredFrom: 'the token shown under Developer resources → Outgoing webhook',
    description:
      "the token(s) shown in the outgoing webhook's settings, separated by commas, each optionally named: sales=abc; several may have one name",
    isSecret: true,
    onlyReceiver: true,
  },
  incomingWebhooks: {
    name: 'B24_HOOK',
    parse: optional(catching(parseIncomingWebhooks), []),
    description:
      'the incoming webhook(s) through which handlers call Bitrix24, one URL, or several named like the tokens: sales=https://…',
    isSecret: true,
  },
  rate: {
    name: 'B24_RATE',
    parse: wholeNumber(1, 1000),
    default: '2',
    description: 'requests a second to a portal, of all workers together; the Enterprise plan allows 5',
  },
  burst: {
    name: 'B24_BURST',
    parse: wholeNumber(1, 10_000),
    default: '50',
    description: 'requests that may be sent at once before the rate applies; the Enterprise plan allows 250',
  },
  port: {
    heading: 'Listeners',
    name: 'PORT',
    parse: wholeNumber(0, 65535),
    default: '8080',
    description: 'port of the public listener',
  },
  host: { name: 'HOST', parse: parseHost, default: '0.0.0.0', description: 'address of the public listener' },
  /** Without a trailing slash. A request may have one. */
  webhookPath: { name: 'WEBHOOK_PATH', parse: parsePath, default: '/bitrix24', description: 'path of the handler URL' },
  /** In the form of `webhookPath`. `undefined` if no posts of robots are taken. */
  robotPath: {
    name: 'ROBOT_PATH',
    parse: optional(parseRobotPath),
    description:
      'path of the URL for robots (outgoing webhooks of CRM automation), a secret: /robot/ and what openssl rand -hex 16 prints',
    isSecret: true,
    onlyReceiver: true,
  },
  adminPort: {
    name: 'ADMIN_PORT',
    parse: wholeNumber(0, 65535),
    default: '9090',
    description: 'port of the private listener: /readyz, /metrics',
  },
  adminHost: {
    name: 'ADMIN_HOST',
    parse: parseHost,
    default: '127.0.0.1',
    description: 'address of the private listener',
  },
  adminAllowedHosts: {
    name: 'ADMIN_ALLOWED_HOSTS',
    parse: parseHosts,
    description:
      'names by which the private listener may be called, beside localhost and IP addresses, separated by commas: receiver',
  },
  /** An absolute path. */
  dataDir: {
    heading: 'Folders',
    name: 'DATA_DIR',
    parse: resolve,
    default: './data',
    description: 'journal and dispatch state',
  },
  /** An absolute path. */
  handlersDir: {
    name: 'HANDLERS_DIR',
    parse: resolve,
    default: './examples/handlers',
    description: 'your handler files',
  },
  bodyLimit: {
    heading: 'Posts, journal and log',
    name: 'BODY_LIMIT',
    parse: size(1024, 64 * 1024 ** 2),
    default: '1MB',
    description: 'the longest body that is accepted',
  },
  trustProxy: {
    name: 'TRUST_PROXY',
    parse: parseProxies,
    description: 'addresses or CIDRs of proxies in front, separated by commas; their X-Forwarded-For is believed',
  },
  /** `undefined`: all addresses. */
  allowedIps: {
    name: 'B24_ALLOWED_IPS',
    parse: optional(parseAllowedIps),
    description:
      'take posts only from these addresses or CIDRs, separated by commas, or auto: from those that Bitrix24 publishes',
  },
  segmentSize: {
    name: 'SEGMENT_SIZE',
    parse: size(1024, 1024 ** 3),
    default: '64MB',
    description: 'a segment of the journal ends at this size',
  },
  retentionDays: {
    name: 'RETENTION_DAYS',
    parse: wholeNumber(1, 36500),
    default: '30',
    description: 'segments that were followed are removed after this many days',
  },
  logLevel: {
    name: 'LOG_LEVEL',
    parse: oneOf(levels),
    default: 'info',
    description: `diagnostic log on stdout: ${levels.join(', ')}`,
  },
  concurrency: {
    heading: 'Handlers',
    name: 'CONCURRENCY',
    parse: wholeNumber(1, 1000),
    default: '8',
    description: 'handlers running at once',
  },
  retryFor: {
    name: 'RETRY_FOR',
    parse: duration(0, '90d'),
    default: '72h',
    description: 'how long a failing delivery is tried again',
  },
  handlerTimeout: {
    name: 'HANDLER_TIMEOUT',
    parse: duration(1, '1d'),
    default: '60s',
    description: 'the time for one run of a handler; then its signal aborts',
  },
  handlerStall: {
    name: 'HANDLER_STALL',
    parse: duration(100, '1h'),
    default: '30s',
    description: 'a handler that blocks its process for this long is killed',
  },
  handlerLoadTimeout: {
    name: 'HANDLER_LOAD_TIMEOUT',
    parse: duration(100, '1h'),
    default: '30s',
    description: 'a handler file that is not loaded after this long is reported, and the others run without it',
  },
  shutdownGrace: {
    name: 'SHUTDOWN_GRACE',
    parse: duration(0, '1h'),
    default: '8s',
    description: 'how long a stop may take; Docker kills at 10 s',
  },
  dispatchFrom: {
    name: 'DISPATCH_FROM',
    parse: optional(parseFrom),
    description: 'only if dispatch.db was lost: oldest, now, or a time such as 2026-11-23T08:00:00Z',
  },
  backfillOnStart: {
    name: 'BACKFILL_ON_START',
    parse: optional(parseBackfill),
    description:
      'records whose changes are looked for after a start, from the last event before it: deal,lead,task,item:1032',
  },
  dispatcher: {
    name: 'DISPATCHER',
    parse: onOrOff,
    default: 'on',
    description: 'off: posts are journalled, no handler runs',
  },
  databaseUrl: {
    name: 'DATABASE_URL',
    parse: optional(parseDatabase),
    description:
      'deliveries are in this Postgres, for several machines: postgres://user:password@host/database (docs/scaling.md)',
    isSecret: true,
  },
  runHandlers: {
    name: 'RUN_HANDLERS',
    parse: onOrOff,
    default: 'on',
    description: 'with DATABASE_URL: off if this receiver runs no handlers, but only b24-receiver worker does',
  },
  alertUrl: {
    heading: 'Alerts',
    name: 'ALERT_URL',
    parse: optional(parseAlertUrl),
    description: 'alerts are posted to it as JSON; the URL of a method such as im.message.add will do',
    isSecret: true,
  },
  alertAfterSilence: {
    name: 'ALERT_AFTER_SILENCE',
    parse: optional(duration(1, '90d')),
    description: 'an alert is sent if no event has come for this long, such as 2h; unset: none',
  },
} satisfies Record<string, Setting<unknown>>
