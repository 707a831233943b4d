import { fork } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { basename, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { pino } from 'pino'
import { prettyFactory } from 'pino-pretty'
import { type Config, readConfig } from '../config.ts'
import { matcherOf } from '../dispatch/pattern.ts'
import { isHandlerFile } from '../dispatch/registry.ts'
import type { JournalledEvent } from '../journal/follow.ts'
import { onTerminal } from '../log.ts'
import { findEvent, findLast } from './choose-event.ts'
import { defineCommand } from './command.ts'
import { findDataDir } from './data.ts'
import { exitCodes } from './exit-codes.ts'
import { localTime } from './local-time.ts'
import type { Printer } from './printer.ts'
import type { TracedCommand, TracedRequest } from './rest-trace.ts'
import type { Ended, FromTry, ToTry } from './try-messages.ts'
import { UsageError } from './usage-error.ts'

/** Runs a handler once on an event of the journal, and shows what it does. */
export const tryCommand = defineCommand({
  name: 'try',
  usage: 'HANDLER_FILE',
  summary: 'runs a handler once, here and now, on a recorded event; leaves no delivery behind',
  notes: [
    'Shows its log, its calls of Bitrix24, what it returned or threw, and what the receiver would have done then; exits with 1',
    'when it threw. It runs as in the receiver, with the same settings, in a process of its own, and for an event that it does',
    'not handle, too. What it prints itself goes to stderr. Ctrl-C aborts its signal; again, and it is killed.',
    'With --dry-rest what context.bitrix24 would write is shown and not sent: add gives the id 999999999, all else true or the',
    'given fields. What is not known to read is taken for a write. What a handler does by other means is done.',
  ],
  options: {
    event: {
      type: 'string',
      value: 'ID|last',
      default: 'last',
      about: 'on this event; last is the newest that it handles',
    },
    'dry-rest': { type: 'boolean', about: 'writes to Bitrix24 are shown, not sent' },
  },
  examples: [
    'try handlers/ONCRMDEALUPDATE.ts',
    'try handlers/ONCRMDEALUPDATE.ts --dry-rest',
    'try ONCRMDEALUPDATE.ts --event 019aaf6e-1c2b-7a10-8f5e-3b6c1d2e4f50   # from HANDLERS_DIR',
  ],
  words: 1,
  async run({ options, words: [word], print }) {
    if (word === undefined) throw new UsageError('name the file of a handler')
    const config = readConfig(process.env, 'dispatcher')
    const file = findFile(word, config.handlersDir)
    const dataDir = findDataDir()
    const log = pino({ base: null }, process.stderr)
    const show = createShow({ print, retryFor: config.retryFor })

    async function choose({ name, events }: Extract<FromTry, { type: 'loaded' }>): Promise<JournalledEvent> {
      const matches = matcherOf(events)
      if (options.event === 'last') {
        const last = await findLast(({ event }) => matches(event), { dataDir, log })
        if (last) return last
        throw new Error(
          `the journal has no event that ${name} handles (${events.join(', ')}): name one with --event, or post one with b24-receiver send`,
        )
      }
      const found = await findEvent(options.event, { dataDir, log })
      if (found === undefined) throw new Error(`the journal has no event ${options.event}`)
      if (!matches(found.event)) print.note(`${name} does not handle ${found.event}: it is run all the same`)
      return found
    }

    return runInChild({
      file,
      config,
      onLoaded: async (loaded) => {
        for (const { event, nearest } of loaded.unknown)
          print.note(`the documentation does not know ${event}${nearest === undefined ? '' : `: is it ${nearest}?`}`)
        const event = await choose(loaded)
        await show.start(loaded.name, event)
        return { type: 'run', event, isDry: options['dry-rest'] }
      },
      onMessage: (message) => show.message(message),
    })
  },
})

function findFile(word: string, handlersDir: string): string {
  const file = [resolve(word), join(handlersDir, word)].find((path) => existsSync(path))
  if (file === undefined) throw new UsageError(`there is no file ${word}, here or in ${handlersDir}`)
  if (!isHandlerFile(basename(file)))
    throw new UsageError(`${basename(file)} is no handler to the receiver: see its rules for names in docs/handlers.md`)
  return file
}

/** Milliseconds from the start of its process. */
const longestLoad = 30_000

interface ChildParts {
  readonly file: string
  readonly config: Config
  /** What it is to run. */
  readonly onLoaded: (loaded: Extract<FromTry, { type: 'loaded' }>) => Promise<ToTry>
  readonly onMessage: (message: FromTry) => Promise<void>
}

/** @returns the exit code */
async function runInChild({ file, config, onLoaded, onMessage }: ChildParts): Promise<number> {
  const child = fork(fileURLToPath(new URL('try-process.ts', import.meta.url)), [file], {
    // As a dispatcher's.
    execArgv: ['--disable-warning=ExperimentalWarning', '--disable-warning=MODULE_TYPELESS_PACKAGE_JSON'],
    // stdout is for what we say of it.
    stdio: ['ignore', 2, 2, 'ipc'],
  })
  const say = (message: ToTry) => void (child.connected && child.send(message, () => undefined))
  let code: number | undefined
  let failure: unknown
  /** Why it was killed. */
  let reason: string | undefined
  let isRunning = false
  /** From its first sign on: a process may need longer to start than a handler may block it. */
  let heard: number | undefined
  let working = Promise.resolve()

  const kill = (why: string) => {
    reason ??= why
    child.kill('SIGKILL')
  }
  let isInterrupted = false
  const interrupt = () => {
    if (!isRunning) kill('it was interrupted')
    else if (isInterrupted) kill('it was interrupted, and ignored its signal')
    else say({ type: 'interrupt' })
    isInterrupted = true
  }
  process.on('SIGINT', interrupt)

  const loading = setTimeout(() => kill(`it was not loaded within ${longestLoad / 1000} s`), longestLoad)
  const watch = setInterval(
    () => {
      if (heard !== undefined && performance.now() - heard > config.handlerStall)
        kill(
          `it blocks its process for longer than HANDLER_STALL (${config.handlerStall} ms); the receiver kills it, too`,
        )
    },
    Math.min(1_000, config.handlerStall / 2),
  )
  child.on('message', (message: FromTry) => {
    heard = performance.now()
    if (message.type === 'loaded' || message.type === 'broken') clearTimeout(loading)
    if (message.type === 'ended' || message.type === 'broken') code = exitCodeOf(message)
    working = working
      .then(async () => {
        await onMessage(message)
        if (message.type !== 'loaded') return
        const order = await onLoaded(message)
        isRunning = true
        say(order)
      })
      .catch((error: unknown) => {
        failure ??= error
        child.kill('SIGKILL')
      })
  })
  const [exitCode, signal]: [number | null, string | null] = (
    await Promise.all([once(child, 'exit'), once(child, 'disconnect')])
  )[0] as [number | null, string | null]
  clearTimeout(loading)
  clearInterval(watch)
  await working
  if (failure !== undefined) throw failure
  if (code !== undefined) return code
  throw new Error(
    reason ??
      `its process ended while it ran (${signal ?? `exit code ${exitCode}`}): the receiver would run it again, alone`,
  )
}

function exitCodeOf(message: Extract<FromTry, { type: 'ended' | 'broken' }>): number {
  const isWell = message.type === 'ended' && message.error === undefined
  return isWell ? exitCodes.done : exitCodes.failed
}

function createShow({ print, retryFor }: { readonly print: Printer; readonly retryFor: number }) {
  const pretty = prettyFactory({ ...onTerminal, colorize: print.isTerminal, ignore: 'id,event,object,handler,attempt' })

  return {
    async start(handler: string, event: JournalledEvent): Promise<void> {
      const { id, event: name, object } = event
      if (print.json) await print.line(JSON.stringify({ type: 'start', handler, event }))
      else print.note(`${handler}, on ${[name, object].filter(Boolean).join(' ')} of ${localTime(event.time)} (${id})`)
    },

    async message(message: FromTry): Promise<void> {
      if (message.type === 'alive' || message.type === 'loaded') return
      if (message.type === 'log') {
        const line: object = JSON.parse(message.line)
        await print.result({ type: 'log', ...line }, pretty(line).trimEnd())
      } else if (message.type === 'request') {
        const { request } = message
        await print.result(
          typeof request === 'string' ? { type: 'request', request } : { type: 'request', ...request },
          typeof request === 'string' ? request : textOf(request),
        )
      } else await print.result(message, message.type === 'broken' ? tellBroken(message) : tellEnd(message, retryFor))
    },
  }
}

function textOf({ ms, call, batch = {} }: TracedRequest): string {
  if (call) return `REST ${tellCommand(call)} (${ms} ms)`
  const commands = Object.entries(batch).map(([key, command]) => `\n     ${key}: ${tellCommand(command)}`)
  return `REST batch of ${commands.length} (${ms} ms)${commands.join('')}`
}

function tellCommand({ method, params, sent, result, error }: TracedCommand): string {
  const end = error ?? (result === undefined ? 'not reached' : shorten(result))
  return `${method} ${shorten(params)} ${sent ? '→' : 'is not sent, and answered with'} ${end}`
}

/** Of parameters and results, in characters. */
const longest = 300

function shorten(value: unknown): string {
  const text = JSON.stringify(value) ?? ''
  return text.length > longest ? `${text.slice(0, longest)}… (${text.length} characters)` : text
}

function tellBroken({ at, error }: Extract<FromTry, { type: 'broken' }>): string {
  return `${error}\nit cannot be loaded: ${at}`
}

function tellEnd({ outcome, ms, dueIn = 0, error, returned }: Ended, retryFor: number): string {
  const endings: Readonly<Record<string, string>> = {
    handled: `handled in ${ms} ms`,
    gone: `gone: what the event was about is not in the portal any more (${ms} ms)`,
    retried: `failed after ${ms} ms: the receiver would run it again in about ${Math.max(1, Math.round(dueIn / 1000))} s, and then later and later for ${toHours(retryFor)} h`,
    dead: `failed after ${ms} ms, for good: the receiver would not run it again; its delivery would be dead`,
    postponed: `failed after ${ms} ms, because the hook does not work: the receiver would run it again when it does`,
  }
  const value = returned === undefined ? [] : [`returned ${shorten(returned)}, of which the receiver makes nothing`]
  return [...(error === undefined ? [] : [error]), ...value, endings[outcome] ?? outcome].join('\n')
}

function toHours(ms: number): string {
  return String(Math.round(ms / 36_000) / 100)
}
