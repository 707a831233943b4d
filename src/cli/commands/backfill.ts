import { existsSync, readFileSync } from 'node:fs'
import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import { backfill, type Place, portalClockSlackMs, type Recipient, type Sum } from '../../backfill/backfill.ts'
import { readJournalled } from '../../backfill/journalled.ts'
import { parseTargets, type Target, targetNames } from '../../backfill/targets.ts'
import { createClient } from '../../bitrix24/client.ts'
import { createLimits } from '../../bitrix24/limits.ts'
import { readConfig } from '../../config/config.ts'
import { writeFileAtomic } from '../../lib/atomic-file.ts'
import { realClock } from '../../lib/clock.ts'
import { isObject } from '../../lib/is-object.ts'
import { parseJson } from '../../lib/json.ts'
import { matcherOf } from '../../lib/pattern.ts'
import { openAppender } from '../appender.ts'
import { defineCommand } from '../command.ts'
import { findDataDir, withDeliveries } from '../data.ts'
import { createNoteLog } from '../note-log.ts'
import { parseTime } from '../selection.ts'
import { UsageError } from '../usage-error.ts'
import { chooseIncomingWebhook } from './call.ts'

/** Repairs a gap: reads from the portal what changed, and journals the changes that came without an event. */
export const backfillCommand = defineCommand({
  name: 'backfill',
  usage: 'deal,lead,… --since TIME|--all',
  summary: 'asks Bitrix24 what changed, and journals an event for each record of whose change none came',
  notes: [
    `It takes ${targetNames.join(', ')}, several with commas.`,
    'Each event has "source":"backfill"; handlers get it like any other. With --since a record that was made since then, and that the journal does not know, gives its ADD event,',
    'any other its UPDATE; with --all, the first fill of a mirror, each gives an UPDATE. What was deleted is not found, several',
    'changes become one, and only what the user of the incoming webhook may read is seen. It keeps to the limits of the portal, and may be',
    'ended and resumed.',
    'With --handler that handler alone gets an event of every record, also of those that the journal knows: for a handler that is new.',
  ],
  options: {
    since: {
      type: 'string',
      value: 'TIME',
      description: 'what changed from then on: 2h, 7d ago, or 2026-11-23T08:00:00Z',
    },
    all: { type: 'boolean', description: 'all records there are' },
    resume: { type: 'boolean', description: 'go on with the one that was ended' },
    handler: {
      type: 'string',
      value: 'NAME',
      description: 'give each record to this handler alone, whatever the journal knows',
    },
    hook: { type: 'string', value: 'NAME', description: 'which one, where B24_HOOK has several' },
    'dry-run': { type: 'boolean', description: 'only say how many events it would make' },
  },
  examples: [
    'backfill deal,lead --since 2h',
    'backfill item:1032 --since 2026-11-23T08:00:00Z --dry-run',
    'backfill contact --all',
    'backfill deal --all --handler mirror',
    'backfill --resume',
  ],
  args: 1,
  async run({ options, args: [names], print }) {
    const config = readConfig(process.env)
    const { rate, burst } = config
    const dataDir = findDataDir()
    const path = join(dataDir, 'backfill.json')
    const plan = options.resume ? resumePlan(path, names, options) : toPlan(names, options)
    const incomingWebhook = chooseIncomingWebhook(config.incomingWebhooks, plan.incomingWebhook)
    if (options.resume && plan.host !== incomingWebhook.host)
      throw new Error(
        `that backfill was of ${plan.host}, not of ${incomingWebhook.host}: choose its incoming webhook in B24_HOOK`,
      )
    const targets = parse(plan.targets)
    const since = plan.since === undefined ? undefined : new Date(plan.since)
    const only = plan.handler === undefined ? undefined : await findRecipient(dataDir, plan.handler)
    const kinds = new Set(targets.map(({ name }) => name.replace(/:.*/, '')))
    const journalled = await readJournalled({ dataDir, incomingWebhook, kinds, since, log: createNoteLog(print) })
    if (journalled.origin === undefined)
      print.note(
        `the journal has no event of ${incomingWebhook.host} yet: what is backfilled has no order with its first events`,
      )

    const isDry = options['dry-run']
    const appender = isDry ? undefined : await openAppender(config, createNoteLog(print))
    let sum: Sum
    try {
      sum = await backfill({
        client: createClient({ incomingWebhook, limits: createLimits({ rate, burst, clock: realClock }) }),
        incomingWebhook,
        targets,
        since,
        journalled,
        only,
        from: plan.place,
        append: async (events) => appender?.append(events),
        async onPage(place, { records, events }) {
          if (!isDry) await writeFileAtomic(path, JSON.stringify({ ...plan, host: incomingWebhook.host, place }))
          print.progress(`${place.target}: ${records} records, ${events} events`)
        },
      })
    } catch (error) {
      if (!isDry && existsSync(path)) print.note('it goes on from there with b24-receiver backfill --resume')
      throw error
    } finally {
      await appender?.close()
    }
    if (!isDry) await rm(path, { force: true })
    await print.result(sum, `${sum.records} records, ${sum.events} events ${isDry ? 'to journal' : 'journalled'}`)
    return undefined
  },
})

async function findRecipient(dataDir: string, name: string): Promise<Recipient> {
  return withDeliveries(dataDir, 'read', async (deliveries) => {
    const known = await deliveries.handlers()
    const events = known.find((handler) => handler.name === name)?.events
    if (events === undefined)
      throw new Error(
        `no handler "${name}" was ever loaded, so what it handles is not known: put its file into HANDLERS_DIR and reload; there are ${known.map((one) => one.name).join(', ') || 'none'}`,
      )
    return { handler: name, matches: matcherOf(events) }
  })
}

/** The objects to backfill, and the progress. It is kept on disk while the backfill runs. */
interface Plan {
  readonly targets: string
  /** ISO 8601. */
  readonly since: string | undefined
  readonly incomingWebhook: string | undefined
  readonly handler: string | undefined
  /** The portal whose ids the progress refers to. */
  readonly host?: string | undefined
  readonly place?: Place | undefined
}

interface PlanOptions {
  readonly since: string | undefined
  readonly all: boolean
  readonly hook: string | undefined
  readonly handler: string | undefined
}

function toPlan(targets: string | undefined, { since, all, hook: incomingWebhook, handler }: PlanOptions): Plan {
  if (targets === undefined) throw new UsageError(`name what to backfill: ${targetNames.join(', ')}`)
  if ((since !== undefined) === all) throw new UsageError('add --since TIME, or --all')
  const time = parseTime('--since', since, new Date())
  return {
    targets,
    incomingWebhook,
    handler,
    since: time && new Date(time.getTime() - portalClockSlackMs).toISOString(),
  }
}

function parse(names: string): readonly Target[] {
  try {
    return parseTargets(names)
  } catch (error) {
    throw error instanceof TypeError ? new UsageError(error.message) : error
  }
}

function resumePlan(
  path: string,
  names: string | undefined,
  { since, all, hook: incomingWebhook, handler }: PlanOptions,
): Plan {
  if ([names, since, incomingWebhook, handler].some((word) => word !== undefined) || all)
    throw new UsageError('--resume takes nothing beside it but --dry-run')
  return readPlan(path)
}

function readPlan(path: string): Plan {
  if (!existsSync(path)) throw new Error('there is no backfill to resume')
  const plan = parseJson(readFileSync(path, 'utf8'))
  if (!isObject(plan) || typeof plan['targets'] !== 'string')
    throw new Error(
      `${path} is not what a backfill wrote: where it was is not known; backfill again with --since, which tells nothing twice`,
    )
  const text = (value: unknown) => (typeof value === 'string' ? value : undefined)
  const place = isObject(plan['place']) ? plan['place'] : {}
  const [target, after] = [text(place['target']), text(place['after'])]
  return {
    targets: plan['targets'],
    since: text(plan['since']),
    incomingWebhook: text(plan['incomingWebhook']),
    handler: text(plan['handler']),
    host: text(plan['host']),
    place: target !== undefined && after !== undefined ? { target, after } : undefined,
  }
}
