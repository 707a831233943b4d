import { createClient } from '../../bitrix24/client.ts'
import type { IncomingWebhook } from '../../bitrix24/incoming-webhook.ts'
import { createLimits } from '../../bitrix24/limits.ts'
import { ConfigError, readSettings } from '../../config/config.ts'
import { realClock } from '../../lib/clock.ts'
import { defineCommand } from '../command.ts'
import { parseParameters } from '../parameters.ts'
import { UsageError } from '../usage-error.ts'

/** Calls a method of Bitrix24 through the incoming webhook and prints the result. */
export const call = defineCommand({
  name: 'call',
  usage: 'METHOD [KEY=VALUE …]',
  summary: 'calls Bitrix24 through B24_HOOK and prints the result',
  notes: [
    'KEY[NAME]=VALUE or KEY.NAME=VALUE nests, KEY[]=VALUE adds to a list, and after := the value is JSON.',
    'The URL of the incoming webhook is never printed.',
  ],
  options: {
    hook: { type: 'string', value: 'NAME', description: 'which one, where B24_HOOK has several' },
    all: { type: 'boolean', description: 'of a list all pages, not only the first; with --json a line for each row' },
  },
  examples: [
    'call crm.contact.get ID=42',
    "call crm.item.update entityTypeId=2 id=662 'fields[title]=Boat'",
    `call crm.item.list entityTypeId=2 'select:=["id","title"]' 'filter[>=createdTime]=2026-01-01' --all --json`,
  ],
  async run({ options, args: [method = '', ...args], print }) {
    // The word is not repeated, because it may be the URL of the incoming webhook.
    if (!/^[A-Za-z][\w.]*$/.test(method)) throw new UsageError('name a method first, such as crm.contact.get')
    const parameters = parseParameters(args)
    const { incomingWebhooks, rate, burst } = readSettings(process.env, 'incomingWebhooks', 'rate', 'burst')
    const incomingWebhook = chooseIncomingWebhook(incomingWebhooks, options.hook)
    const client = createClient({ incomingWebhook, limits: createLimits({ rate, burst, clock: realClock }) })
    const show = (value: unknown) => print.result(value ?? null, JSON.stringify(value ?? null, undefined, 2))
    if (!options.all) {
      await show(await client.call(method, parameters))
      return undefined
    }
    try {
      for await (const row of client.list(method, parameters)) await show(row)
    } catch (error) {
      throw error instanceof TypeError ? new UsageError(`${method} gives no list: leave --all out`) : error
    }
    return undefined
  },
})

/** @throws if there is none, or if there are several and none was named */
export function chooseIncomingWebhook(
  incomingWebhooks: readonly IncomingWebhook[],
  name: string | undefined,
): IncomingWebhook {
  const [first] = incomingWebhooks
  if (first === undefined) throw new ConfigError(['B24_HOOK is not set'])
  const names = incomingWebhooks.flatMap((incomingWebhook) => incomingWebhook.name ?? []).join(', ')
  if (name === undefined) {
    if (incomingWebhooks.length > 1) throw new UsageError(`B24_HOOK has several: choose with --hook one of ${names}`)
    return first
  }
  const named = incomingWebhooks.find((incomingWebhook) => incomingWebhook.name === name)
  if (named === undefined)
    throw new UsageError(`B24_HOOK has none of that name${names === '' ? '' : `; it has ${names}`}`)
  return named
}
