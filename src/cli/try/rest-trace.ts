import { readResults } from '../../bitrix24/batch.ts'
import { Bitrix24Error } from '../../bitrix24/bitrix24-error.ts'
import { commandsOf, withheldOf, withholdWrites } from '../../bitrix24/dry-run.ts'
import type { Hook } from '../../bitrix24/incoming-webhook.ts'
import { isRead } from '../../bitrix24/reads.ts'
import { type Connect, createTransport } from '../../bitrix24/transport.ts'

/** What was asked of the portal, and what came of it. */
export interface TracedCommand {
  readonly method: string
  readonly params: object
  /** `false`: a dry run answered it. */
  readonly sent: boolean
  readonly result?: unknown
  /** `CODE (description)`, or another reason. */
  readonly error?: string
}

/** One request: a call, or a batch with what was in it. */
export interface TracedRequest {
  readonly ms: number
  readonly call?: TracedCommand
  /** By key; one without result and error was not reached. */
  readonly batch?: Readonly<Record<string, TracedCommand>>
}

export interface TraceParts {
  /** What may write is not sent. */
  readonly isDry: boolean
  readonly tell: (request: TracedRequest) => void
  readonly connect?: Connect
}

/** The transport, telling of every request when it is over. */
export function traceRequests({ isDry, tell, connect = createTransport }: TraceParts): Connect {
  return (hook, signal) => {
    const plain = connect(hook, signal)
    const send = isDry ? withholdWrites(plain) : plain
    return async (method, params) => {
      const started = performance.now()
      const told = (ended: { result?: unknown; error?: string }) => {
        const ms = Math.round(performance.now() - started)
        if (method === 'batch') tell({ ms, batch: readBatch({ hook, params, isDry, ended }) })
        else tell({ ms, call: { method, params, sent: !isDry || isRead(method), ...ended } })
      }
      try {
        const envelope = await send(method, params)
        told({ result: envelope.result })
        return envelope
      } catch (error) {
        told({ error: explain(error) })
        throw error
      }
    }
  }
}

interface BatchParts {
  readonly hook: Hook
  readonly params: object
  readonly isDry: boolean
  readonly ended: { readonly result?: unknown; readonly error?: string }
}

function readBatch({ hook, params, isDry, ended }: BatchParts): Record<string, TracedCommand> {
  const commands = commandsOf(params)
  const withheld = isDry ? withheldOf(commands) : new Set<string>()
  const byKey = commands.map((command) => [command.key, command] as const)
  const { settled } = readResults({ result: ended.result, commands: byKey, hook })
  return Object.fromEntries(
    commands.map(({ key, method, params }) => {
      const one = settled.get(key)
      const end = one && 'error' in one ? { error: explain(one.error) } : (one ?? {})
      return [key, { method, params, sent: !withheld.has(key), ...(ended.error !== undefined ? ended : end) }]
    }),
  )
}

function explain(error: unknown): string {
  if (error instanceof Bitrix24Error) return `${error.code} (${error.description})`
  return error instanceof Error ? error.message : String(error)
}
