import type { DeadSelection, DeliveryRecord } from '../../queue/deliveries.ts'
import { defineCommand } from '../command.ts'
import { confirm } from '../confirm.ts'
import { count } from '../count.ts'
import { findDataDir, maxInTransaction, withDeliveries } from '../data.ts'
import { recordToJson } from '../delivery-story.ts'
import { exitCodes } from '../exit-codes.ts'
import { localTime } from '../local-time.ts'
import { UsageError } from '../usage-error.ts'

/** Lists the dead deliveries, and retries or drops them. */
export const dead = defineCommand({
  name: 'dead',
  usage: '[retry|drop [ID …]]',
  summary: 'deliveries that were given up: lists them, tries them again, or drops them',
  notes: [
    'Retried, a delivery gets all its attempts again and goes behind what waits for its object. Dropped, it is gone; its event',
    'stays in the journal. Both need ids of events, --handler, --object or --all.',
  ],
  options: {
    handler: { type: 'string', value: 'NAME', description: 'of this handler' },
    object: { type: 'string', value: 'OBJECT', description: 'of events about this object, such as deal:662' },
    all: { type: 'boolean', description: 'all of them' },
    yes: { type: 'boolean', short: 'y', description: 'do not ask' },
  },
  examples: [
    'dead',
    'dead retry 019aaf6e-1c2b-7a10-8f5e-3b6c1d2e4f50',
    'dead retry --handler ONCRMLEADADD',
    'dead drop --all --yes',
  ],
  async run({ options, args: [what = 'list', ...ids], print }) {
    if (what !== 'list' && what !== 'retry' && what !== 'drop')
      throw new UsageError(`dead "${what}": it is dead, dead retry or dead drop`)
    const { handler, object, all, yes } = options
    const isChosen = ids.length > 0 || handler !== undefined || object !== undefined
    if (what !== 'list' && isChosen === all)
      throw new UsageError(`dead ${what} takes ids of events, --handler or --object; or --all`)
    const selection: DeadSelection = { handler, object, events: ids.length > 0 ? ids : undefined }
    return withDeliveries(findDataDir(), what === 'list' ? 'read' : 'write', async (deliveries) => {
      const found = await deliveries.dead(selection)
      if (what === 'list') {
        if (print.json) for (const one of found) await print.line(JSON.stringify(recordToJson(one)))
        else await print.table(found, columns, 'no delivery is dead')
        return undefined
      }
      const missing = ids.filter((id) => !found.some(({ event }) => event === id))
      if (missing.length > 0)
        throw new Error(`no dead delivery is of the event ${missing.join(', ')}: nothing was done`)
      const unreadable = what === 'retry' ? found.filter((one) => one.unreadable !== undefined) : []
      for (const { event, handler } of unreadable)
        print.note(
          `${event} of ${handler} cannot be tried again: its event cannot be read, see show ${event} --raw; dead drop ${event} gives it up`,
        )
      if (unreadable.length > 0 && unreadable.length === found.length) return exitCodes.failed
      if (found.length === 0) throw new Error('no such delivery is dead')
      const deed = what === 'retry' ? 'tried again' : 'dropped'
      const plan = `${count(found.length, 'dead delivery is', 'dead deliveries are')} to be ${deed}`
      if (!(await confirm(print, plan, yes || ids.length > 0))) return exitCodes.failed
      let done = 0
      for (let at = 0; at < found.length; at += maxInTransaction) {
        done += await deliveries[what](found.slice(at, at + maxInTransaction))
        print.progress(`${done} of ${found.length}`)
      }
      await print.result({ [what === 'retry' ? 'retried' : 'dropped']: done }, `${done} ${deed}`)
      return undefined
    })
  },
})

const columns: Record<string, (delivery: DeliveryRecord) => string> = {
  died: ({ endedAt = 0 }) => localTime(endedAt),
  id: ({ event }) => event,
  event: ({ name }) => name,
  object: ({ object = '' }) => object,
  handler: ({ handler }) => handler,
  attempts: ({ attempts }) => String(attempts),
  error: ({ error = '' }) => error.replaceAll(/\s+/g, ' ').slice(0, 120),
}
