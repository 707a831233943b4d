import { incomingWebhookFor } from '../../bitrix24/incoming-webhook.ts'
import { ConfigError, readSettings } from '../../config/config.ts'
import { Problem, parseTokens, type Token, weakTokens } from '../../config/values.ts'
import { isDocumented } from '../../events/catalogue.ts'
import { nearestName } from '../../events/nearest.ts'
import { robotEvent } from '../../events/robot.ts'
import { codeOf } from '../../lib/error-code.ts'
import { isObject } from '../../lib/is-object.ts'
import { parseJson } from '../../lib/json.ts'
import { httpBuildQuery, type PhpArray } from '../../lib/php-query.ts'
import { printable } from '../../lib/printable.ts'
import { bodiesOf, type Outcome, type Simulation, simulate } from '../../simulator/simulate.ts'
import { toUrlHost } from '../admin.ts'
import { defineCommand } from '../command.ts'
import { exitCodes } from '../exit-codes.ts'
import { parseParameters } from '../parameters.ts'
import { UsageError } from '../usage-error.ts'

/** Posts events as Bitrix24 does. */
export const send = defineCommand({
  name: 'send',
  usage: 'EVENT',
  summary: 'posts events as Bitrix24 does, to the receiver of these settings or to --url',
  notes: [
    'The data is as documented, about --id. Handlers run for it as for any event, and they may write to the portal of B24_HOOK,',
    'whose domain the events have. --url may be any receiver, also one that others use: send does not ask first. Exits with 1 when any post',
    'is answered otherwise than with 200, or with 403 for --wrong-token. Times count from when a post was due.',
    'ROBOT posts as a robot does: to ROBOT_PATH, about the document --id, such as DEAL_662, with --field as the parameters of its URL.',
  ],
  options: {
    id: { type: 'string', value: 'ID', description: 'of the object; without it 1, 2, 3, …' },
    field: {
      type: 'string',
      multiple: true,
      value: 'KEY=VALUE',
      description: "set in the event's data, as the parameters of call; may be given again",
    },
    count: {
      type: 'string',
      value: 'N',
      default: '1',
      description: 'so many events; with --id all about the same object',
    },
    rate: { type: 'string', value: 'N', description: 'so many events a second, evenly, whatever becomes of them' },
    duplicate: { type: 'boolean', description: 'each event twice, at once' },
    'wrong-token': { type: 'boolean', description: 'with a token that no receiver has' },
    url: { type: 'string', value: 'URL', description: 'instead of HOST, PORT and WEBHOOK_PATH' },
    token: {
      type: 'string',
      value: 'TOKEN',
      description: 'instead of B24_APPLICATION_TOKEN; others on this machine may see it',
    },
    webhook: { type: 'string', value: 'NAME', description: 'with the token of this name, where there are several' },
    portal: { type: 'string', value: 'DOMAIN', description: "auth.domain; else B24_HOOK's, or example.bitrix24.com" },
    force: { type: 'boolean', description: 'also an event that Bitrix24 does not document' },
  },
  examples: [
    'send ONCRMDEALUPDATE --id 662',
    'send ONCRMDYNAMICITEMADD --id 21 --field FIELDS.ENTITY_TYPE_ID=1032',
    'send ONCRMDEALUPDATE --count 1000 --rate 50',
    'send ONCRMDEALUPDATE --wrong-token --url https://hooks.example.com/bitrix24',
    'send ROBOT --id DEAL_662 --field stage=NEW',
  ],
  args: 1,
  async run({ options, args: [word], print }) {
    const isWrong = options['wrong-token']
    const count = parseNumber('--count', options.count, maxEvents)
    const rate = options.rate === undefined ? undefined : parseNumber('--rate', options.rate, maxEvents)
    const event = parseEvent(word, options.force)
    const isRobot = event === robotEvent
    // A robot's post has the secret path instead of a token.
    if (isRobot && (isWrong || options.token !== undefined))
      throw new UsageError('a robot sends no token: --token and --wrong-token are not for ROBOT')
    const hasToken = !isWrong && !isRobot
    const token = hasToken ? chooseToken(options.token, options.webhook) : { name: options.webhook, value: '' }
    const fields = parseFields(options.field)
    if (hasToken && options.token === undefined) for (const warning of weakTokens([token])) print.note(warning)
    const simulation: Simulation = {
      mode: isWrong ? 'wrong-token' : options.id === undefined ? 'burst' : 'single',
      event,
      id: options.id ?? 1,
      ...(!isRobot && { fields }),
      count,
      copies: options.duplicate ? 2 : 1,
      ...(options.duplicate && options.id !== undefined && { atOnce: 2 }),
      ...(rate !== undefined && { rate }),
      portal: {
        domain: options.portal ?? domainFor(token),
        memberId: 'a223c6b3710f85df22e9377d6c4f7553',
        token: token.value,
      },
    }
    checkFields(simulation)
    const base = options.url === undefined ? urlOfReceiver(isRobot) : parseUrl(options.url)
    const url = isRobot ? withParameters(base, fields) : base
    const stop = new AbortController()
    process.once('SIGINT', () => stop.abort())
    const expected = isWrong ? 403 : 200
    const posts = count * (options.duplicate ? 2 : 1)
    const started = performance.now()
    let done = 0
    let others = 0
    const outcomes = await simulate(url, simulation, {
      signal: stop.signal,
      onOutcome: ({ status }) => {
        done++
        if (status !== expected) others++
        print.progress(`${done} of ${posts} posts${others > 0 ? `, ${others} not answered with ${expected}` : ''}`)
      },
    })
    const seconds = (performance.now() - started) / 1000
    const summary = summarise(outcomes, seconds)
    if (print.json) await print.line(JSON.stringify({ ...summary, expected }))
    else for (const line of format(summary, outcomes)) await print.line(line)
    return others > 0 || done < posts ? exitCodes.failed : exitCodes.done
  },
})

/** The limit, because every outcome is kept until the end. */
const maxEvents = 100_000

function parseNumber(word: string, text: string, max: number): number {
  const value = Number(text)
  if (!/^\d+$/.test(text) || value < 1 || value > max) throw new UsageError(`${word} takes a number from 1 to ${max}`)
  return value
}

function parseEvent(word: string | undefined, isForced: boolean): string {
  if (word === undefined) throw new UsageError('name an event, such as ONCRMDEALUPDATE')
  const name = word.toUpperCase()
  if (!/^[\w.]+$/.test(name)) throw new UsageError(`"${word}" is no name of an event, such as ONCRMDEALUPDATE`)
  if (isDocumented(name) || name === robotEvent || isForced) return name
  const nearest = nearestName(name)
  const meant = nearest === undefined ? '' : `is it ${nearest}? `
  throw new UsageError(`${name} is not documented: ${meant}With --force it is sent all the same`)
}

function parseFields(args: readonly string[]): PhpArray {
  // PHP can represent every value that a command line or JSON can express.
  return parseParameters(args) as PhpArray
}

function checkFields(simulation: Simulation): void {
  try {
    bodiesOf(simulation).next()
  } catch (error) {
    if (!(error instanceof TypeError)) throw error
    throw new UsageError(`--field: ${error.message}`)
  }
}

function chooseToken(given: string | undefined, webhook: string | undefined): Token {
  if (given !== undefined) {
    const tokens = parseTokens(given)
    if (tokens instanceof Problem) throw new UsageError(`--token is no application token: ${tokens.text}`)
    return { name: webhook, value: given }
  }
  const { tokens } = readSettings(process.env, 'tokens')
  if (tokens.length === 0) throw new ConfigError(['B24_APPLICATION_TOKEN is not set'])
  const names = tokens.flatMap(({ name }) => name ?? []).join(', ')
  const token = webhook === undefined ? tokens[0] : tokens.find(({ name }) => name === webhook)
  if (token === undefined)
    throw new ConfigError([`B24_APPLICATION_TOKEN has none of that name${names === '' ? '' : `; it has ${names}`}`])
  return token
}

function domainFor({ name }: Token): string {
  const { incomingWebhooks } = readSettings(process.env, 'incomingWebhooks')
  return incomingWebhookFor(incomingWebhooks, name)?.host ?? 'example.bitrix24.com'
}

function urlOfReceiver(isRobot: boolean): string {
  const { host, port, webhookPath } = readSettings(process.env, 'host', 'port', 'webhookPath')
  const path = isRobot ? readSettings(process.env, 'robotPath').robotPath : webhookPath
  if (path === undefined)
    throw new ConfigError(['ROBOT_PATH is not set, so this receiver takes no posts of robots: set it, or give --url'])
  return `http://${toUrlHost(host)}:${port}${path}`
}

function withParameters(url: string, fields: PhpArray): string {
  const query = httpBuildQuery(fields)
  return query === '' ? url : `${url}${url.includes('?') ? '&' : '?'}${query}`
}

function parseUrl(text: string): string {
  if (URL.canParse(text) && /^https?:$/.test(new URL(text).protocol)) return text
  throw new UsageError('--url takes a URL such as https://hooks.example.com/bitrix24')
}

interface Summary {
  readonly posts: number
  /** The most frequent answer first. `error` is the receiver's code, or why there was no answer (status 0). */
  readonly answers: readonly { readonly status: number; readonly error?: string; readonly count: number }[]
  readonly seconds: number
  /** Milliseconds; `null` if nothing was posted. */
  readonly p50: number | null
  readonly p99: number | null
}

function summarise(outcomes: readonly Outcome[], seconds: number): Summary {
  const counts = new Map<string, { status: number; error?: string; count: number }>()
  for (const outcome of outcomes) {
    const { status } = outcome
    const error = errorOf(outcome)
    const key = `${status} ${error}`
    const one = counts.get(key) ?? { status, ...(error !== undefined && { error }), count: 0 }
    counts.set(key, { ...one, count: one.count + 1 })
  }
  const times = outcomes.map(({ ms }) => ms).sort((a, b) => a - b)
  const percentile = (percent: number) => {
    const ms = times[Math.ceil((percent / 100) * times.length) - 1]
    return ms === undefined ? null : round(ms)
  }
  return {
    posts: outcomes.length,
    answers: [...counts.values()].sort((a, b) => b.count - a.count),
    seconds: round(seconds),
    p50: percentile(50),
    p99: percentile(99),
  }
}

function errorOf({ status, body, error }: Outcome): string | undefined {
  if (status === 0) return codeOf(error) ?? String(error)
  // Another answer is not from a receiver.
  const answer = parseJson(body)
  const code = isObject(answer) ? answer['error'] : undefined
  return typeof code === 'string' ? code : undefined
}

function format({ posts, answers, seconds, p50, p99 }: Summary, [first]: readonly Outcome[]): string[] {
  if (posts === 1 && first && first.status > 0)
    return [`${first.status} ${printable(first.body.trim().slice(0, 300))} (${p50} ms)`]
  return [
    ...answers.map(({ status, error = '', count }) =>
      `${count} × ${status === 0 ? 'no answer' : status} ${printable(error)}`.trim(),
    ),
    `${posts} posts in ${seconds} s; p50 ${p50} ms, p99 ${p99} ms`,
  ]
}

function round(value: number): number {
  return Math.round(value * 10) / 10
}
