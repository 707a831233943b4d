import type { JournalledEvent } from '../../events/event.ts'
import { createPretty, onTerminal } from '../../lib/pretty.ts'
import { printable, printableLines } from '../../lib/printable.ts'
import { localTime } from '../local-time.ts'
import type { Printer } from '../printer.ts'
import type { Ended, FromTry } from './messages.ts'
import type { TracedCommand, TracedRequest } from './rest-trace.ts'

/** Reports the messages of a handler's process, for people or for programs. @param parts.retryFor milliseconds */
export function createReport({ print, retryFor }: { readonly print: Printer; readonly retryFor: number }) {
  const pretty = createPretty({ ...onTerminal, colorize: print.isTerminal, ignore: 'id,event,object,handler,attempt' })

  return {
    async start(handler: string, event: JournalledEvent): Promise<void> {
      const { id, event: name, object } = event
      if (print.json) await print.line(JSON.stringify({ type: 'start', handler, event }))
      else
        print.note(
          `${handler}, on ${printable([name, object].filter(Boolean).join(' '))} of ${localTime(event.time)} (${id})`,
        )
    },

    async message(message: FromTry): Promise<void> {
      if (message.type === 'alive' || message.type === 'loaded') return
      if (message.type === 'log') {
        const line: object = JSON.parse(message.line)
        await print.pretty({ type: 'log', ...line }, pretty(line).trimEnd())
      } else if (message.type === 'request') {
        const { request } = message
        await print.result(
          typeof request === 'string' ? { type: 'request', request } : { type: 'request', ...request },
          typeof request === 'string' ? request : textOf(request),
        )
      } else await print.result(message, message.type === 'broken' ? brokenText(message) : endText(message, retryFor))
    },
  }
}

function textOf({ ms, call, batch = {} }: TracedRequest): string {
  if (call) return `REST ${commandText(call)} (${ms} ms)`
  const commands = Object.entries(batch).map(([key, command]) => `\n     ${key}: ${commandText(command)}`)
  return `REST batch of ${commands.length} (${ms} ms)${commands.join('')}`
}

function commandText({ method, params, sent, result, error }: TracedCommand): string {
  const ended = result === undefined ? 'not reached' : shorten(result)
  const end = error === undefined ? ended : printable(error)
  return `${method} ${shorten(params)} ${sent ? '→' : 'is not sent, and answered with'} ${end}`
}

/** The maximum length of parameters and results, in characters. */
const maxLength = 300

function shorten(value: unknown): string {
  const text = JSON.stringify(value) ?? ''
  return text.length > maxLength ? `${text.slice(0, maxLength)}… (${text.length} characters)` : text
}

function brokenText({ at, error }: Extract<FromTry, { type: 'broken' }>): string {
  return `${printableLines(error)}\nit cannot be loaded: ${at}`
}

function endText({ outcome, ms, dueIn = 0, error, returned }: Ended, retryFor: number): string {
  const endings: Readonly<Record<string, string>> = {
    handled: `handled in ${ms} ms`,
    gone: `gone: what the event was about is not in the portal any more (${ms} ms)`,
    retried: `failed after ${ms} ms: the receiver would run it again in about ${Math.max(1, Math.round(dueIn / 1000))} s, and then later and later for ${toHours(retryFor)} h`,
    dead: `failed after ${ms} ms, for good: the receiver would not run it again; its delivery would be dead`,
    postponed: `failed after ${ms} ms, because the incoming webhook does not work: the receiver would run it again when it does`,
  }
  const value = returned === undefined ? [] : [`returned ${shorten(returned)}, of which the receiver makes nothing`]
  return [...(error === undefined ? [] : [printableLines(error)]), ...value, endings[outcome] ?? outcome].join('\n')
}

function toHours(ms: number): string {
  return String(Math.round(ms / 36_000) / 100)
}
