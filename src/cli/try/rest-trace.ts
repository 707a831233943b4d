import { readResults } from '../../bitrix24/batch.ts'
import { Bitrix24Error } from '../../bitrix24/bitrix24-error.ts'
import { commandsOf, withheldOf, withholdWrites } from '../../bitrix24/dry-run.ts'
import type { IncomingWebhook } from '../../bitrix24/incoming-webhook.ts'
import { isRead } from '../../bitrix24/reads.ts'
import { type Connect, createTransport } from '../../bitrix24/transport.ts'
import { messageOf } from '../../lib/error-text.ts'

export interface TracedCommand {
  readonly method: string
  readonly params: object
  /** `false`: a dry run answered it. */
  readonly sent: boolean
  readonly result?: unknown
  /** `CODE (description)`, or another reason. */
  readonly error?: string
}

/** One request: a call, or a batch with its commands. */
export interface TracedRequest {
  readonly ms: number
  readonly call?: TracedCommand
  /** By key. A command without result and error was not reached. */
  readonly batch?: Readonly<Record<string, TracedCommand>>
}

export interface TraceDeps {
  /** Requests that may write are not sent. */
  readonly isDry: boolean
  readonly onRequest: (request: TracedRequest) => void
  readonly connect?: Connect
}

/** A transport that reports every request when it has ended. */
export function traceRequests({ isDry, onRequest, connect = createTransport }: TraceDeps): Connect {
  return (incomingWebhook, signal) => {
    const plain = connect(incomingWebhook, signal)
    const send = isDry ? withholdWrites(plain) : plain
    return async (method, params) => {
      const started = performance.now()
      const report = (ended: { result?: unknown; error?: string }) => {
        const ms = Math.round(performance.now() - started)
        if (method === 'batch') onRequest({ ms, batch: readBatch({ incomingWebhook, params, isDry, ended }) })
        else onRequest({ ms, call: { method, params, sent: !isDry || isRead(method), ...ended } })
      }
      try {
        const envelope = await send(method, params)
        report({ result: envelope.result })
        return envelope
      } catch (error) {
        report({ error: explain(error) })
        throw error
      }
    }
  }
}

interface BatchDeps {
  readonly incomingWebhook: IncomingWebhook
  readonly params: object
  readonly isDry: boolean
  readonly ended: { readonly result?: unknown; readonly error?: string }
}

function readBatch({ incomingWebhook, params, isDry, ended }: BatchDeps): Record<string, TracedCommand> {
  const commands = commandsOf(params)
  const withheld = isDry ? withheldOf(commands) : new Set<string>()
  const byKey = commands.map((command) => [command.key, command] as const)
  const { results } = readResults({ result: ended.result, commands: byKey, incomingWebhook })
  return Object.fromEntries(
    commands.map(({ key, method, params }) => {
      const one = results.get(key)
      const end = one && 'error' in one ? { error: explain(one.error) } : (one ?? {})
      return [key, { method, params, sent: !withheld.has(key), ...(ended.error !== undefined ? ended : end) }]
    }),
  )
}

function explain(error: unknown): string {
  if (error instanceof Bitrix24Error) return `${error.code} (${error.description})`
  return messageOf(error)
}
