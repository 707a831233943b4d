import { existsSync } from 'node:fs'
import { basename } from 'node:path'
import { readSettings } from '../../config/config.ts'
import { type LoadReport, readLoadReport } from '../../dispatch/load-report.ts'
import { handlerFiles, nameOf } from '../../handler/handler-files.ts'
import { unknownEvents } from '../../handler/unknown-events.ts'
import { findHolder } from '../../journal/lock.ts'
import { messageOf } from '../../lib/error-text.ts'
import { defineCommand } from '../command.ts'
import { confirm } from '../confirm.ts'
import { count } from '../count.ts'
import { findDataDir, withDeliveries } from '../data.ts'
import { exitCodes } from '../exit-codes.ts'
import { localTime } from '../local-time.ts'
import { UsageError } from '../usage-error.ts'

/** A handler, or a file that should be one. */
export interface HandlerState {
  readonly name: string
  /**
   * `loaded`: the last dispatcher loaded it. `broken`: the dispatcher could not load the file. `new`: no dispatcher
   * has loaded it yet, see `reload`. `gone`: the file no longer exists.
   */
  readonly state: 'loaded' | 'broken' | 'new' | 'gone'
  readonly events: readonly string[] | undefined
  /** The names among them that Bitrix24 does not document, new or misspelt, each with the name that it may mean. */
  readonly unknown: readonly { readonly event: string; readonly nearest: string | undefined }[]
  /** Deliveries that wait or run. */
  readonly waiting: number
  readonly dead: number
  /** ISO 8601. */
  readonly loadedAt: string | undefined
  readonly error: string | undefined
}

/** Lists the handlers, and forgets one whose file was removed on purpose. */
export const handlers = defineCommand({
  name: 'handlers',
  usage: '[forget NAME]',
  summary: 'the handlers: loaded, broken, new or gone, and what is pending for each',
  notes: [
    'What a handler is pending whose file is gone waits for the file to come back; "forget" drops it, with its dead deliveries.',
  ],
  options: { yes: { type: 'boolean', short: 'y', description: 'do not ask' } },
  examples: ['handlers', 'handlers --json', 'handlers forget old-crm --yes'],
  args: 2,
  async run({ options, args: [what, name], print }) {
    if (what === undefined) {
      await print.table(await readHandlerStates((reason) => print.note(reason)), columns, 'no handler was ever loaded')
      for (const { file, reason } of readReport(() => undefined)?.leftOut ?? [])
        print.note(`${file} is left out: ${reason}`)
      return undefined
    }
    if (what !== 'forget' || name === undefined) throw new UsageError('it is handlers, or handlers forget NAME')
    const states = await readHandlerStates((reason) => print.note(reason))
    const found = states.find((handler) => handler.name === name)
    if (found === undefined) throw new Error(`no handler "${name}" was ever loaded`)
    if (found.state !== 'gone')
      throw new Error(`the file of "${name}" is still there: remove it from HANDLERS_DIR first, and reload`)
    // The dispatcher would go on adding deliveries for a handler that no longer exists.
    const isOfLastLoad = states.every(({ loadedAt = '' }) => loadedAt <= (found.loadedAt ?? ''))
    if (isOfLastLoad && findHolder(findDataDir(), 'dispatcher'))
      throw new Error(
        `the dispatcher at work still has "${name}": reload first; where it was the last handler, stop the receiver for this`,
      )
    const pending = found.waiting + found.dead
    const plan = `"${name}" is to be forgotten, and ${count(pending, 'delivery', 'deliveries')} dropped`
    if (!(await confirm(print, plan, options.yes))) return exitCodes.failed
    return withDeliveries(findDataDir(), 'write', async (deliveries) => {
      const dropped = await deliveries.forget(name)
      await print.result({ forgotten: name, dropped }, `forgotten; ${dropped} dropped`)
      return undefined
    })
  },
})

/** Without the report, only the broken files are unknown. */
function readReport(onUnreadable: (reason: string) => void): LoadReport | undefined {
  try {
    return readLoadReport(findDataDir())
  } catch (error) {
    onUnreadable(messageOf(error))
    return undefined
  }
}

/** Combines the existing files with the handlers that the dispatcher knows. */
export async function readHandlerStates(onUnreadable: (reason: string) => void): Promise<HandlerState[]> {
  const { handlersDir: dir } = readSettings(process.env, 'handlersDir')
  const { files } = existsSync(dir) ? await handlerFiles(dir) : { files: [] }
  return withDeliveries(findDataDir(), 'read', async (deliveries) => {
    const known = await deliveries.handlers()
    const report = readReport(onUnreadable)
    const errors = new Map(report?.broken.map(({ file, error }) => [nameOf(file), error]))
    const leftOut = new Set(report?.leftOut?.map(({ file }) => basename(file)))
    const present = new Set(files.filter((file) => !leftOut.has(file)).map(nameOf))
    const names = new Set([...known.map(({ name }) => name), ...present])
    return [...names].sort().map((name) => {
      const handler = known.find((one) => one.name === name)
      const error = errors.get(name)
      const loaded = handler?.loadedAt === undefined ? 'new' : 'loaded'
      return {
        name,
        state: !present.has(name) ? 'gone' : error !== undefined ? 'broken' : loaded,
        events: handler?.events,
        unknown: unknownEvents({ events: handler?.events ?? [] }),
        waiting: handler?.pending ?? 0,
        dead: handler?.dead ?? 0,
        loadedAt: handler?.loadedAt === undefined ? undefined : new Date(handler.loadedAt).toISOString(),
        error: present.has(name) ? error : undefined,
      }
    })
  })
}

const columns: Record<string, (handler: HandlerState) => string> = {
  handler: ({ name }) => name,
  state: ({ state }) => state,
  waiting: ({ waiting }) => String(waiting),
  dead: ({ dead }) => String(dead),
  loaded: ({ loadedAt }) => (loadedAt === undefined ? '' : localTime(loadedAt)),
  events: ({ events = [], unknown, error }) =>
    (error ?? events.map((event) => `${event}${noteOn(event, unknown)}`).join(' '))
      .replaceAll(/\s+/g, ' ')
      .slice(0, 120),
}

function noteOn(event: string, unknown: HandlerState['unknown']): string {
  const found = unknown.find((one) => one.event === event)
  if (found === undefined) return ''
  return found.nearest === undefined ? ' (not documented)' : ` (not documented: is it ${found.nearest}?)`
}
