import { once } from 'node:events'
import { parseArgs } from 'node:util'
import { createClient } from '../bitrix24/client.ts'
import { realClock } from '../bitrix24/clock.ts'
import type { Hook } from '../bitrix24/hook.ts'
import { createLimits } from '../bitrix24/limits.ts'
import { readHooks } from '../config.ts'
import { parseParameters } from './parameters.ts'
import { UsageError } from './usage-error.ts'

/** Calls a method of Bitrix24 through the incoming webhook and prints what it gives. */
export async function call(args: string[]): Promise<void> {
  const { values, positionals } = parseArgs({
    args,
    allowPositionals: true,
    options: {
      hook: { type: 'string' },
      all: { type: 'boolean', default: false },
      json: { type: 'boolean', default: false },
    },
  })
  const [method = '', ...words] = positionals
  // Not repeated: somebody may take the URL for it.
  if (!/^[A-Za-z][\w.]*$/.test(method)) throw new UsageError('name a method first, such as crm.contact.get')
  const parameters = parseParameters(words)
  const hook = choose(readHooks(process.env), values.hook)
  // The portal counts for itself; on Enterprise this is only slower than it could be.
  const client = createClient({ hook, limits: createLimits({ rate: 2, burst: 50, clock: realClock }) })

  const print = async (value: unknown) => {
    const line = JSON.stringify(value ?? null, undefined, values.json ? 0 : 2)
    // A slow reader holds us, not our memory.
    if (!process.stdout.write(`${line}\n`)) await once(process.stdout, 'drain')
  }
  if (!values.all) return print(await client.call(method, parameters))
  try {
    for await (const row of client.list(method, parameters)) await print(row)
  } catch (error) {
    throw error instanceof TypeError ? new UsageError(`${method} gives no list: leave --all out`) : error
  }
}

function choose(hooks: readonly Hook[], name: string | undefined): Hook {
  const [first] = hooks
  if (first === undefined) throw new Error('B24_HOOK is not set')
  const names = hooks.flatMap((hook) => hook.name ?? []).join(', ')
  if (name === undefined) {
    if (hooks.length > 1) throw new UsageError(`B24_HOOK has several: choose with --hook one of ${names}`)
    return first
  }
  const named = hooks.find((hook) => hook.name === name)
  if (named === undefined)
    throw new UsageError(`B24_HOOK has none of that name${names === '' ? '' : `; it has ${names}`}`)
  return named
}
