import { existsSync, statSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { readSettings } from '../../config/config.ts'
import { DataDirInUse, lockDataDir } from '../../journal/lock.ts'
import { messageOf } from '../../lib/error-text.ts'
import { checkQueueFile } from '../../queue/sqlite/integrity.ts'
import { queuePath } from '../../queue/sqlite/queue.ts'
import type { Plan } from '../../queue/sqlite/rebuild.ts'
import { prepareRepair } from '../../queue/sqlite/repair.ts'
import { defineCommand } from '../command.ts'
import { confirm } from '../confirm.ts'
import { findDataDir } from '../data.ts'
import { exitCodes } from '../exit-codes.ts'
import { createNoteLog } from '../note-log.ts'
import type { Printer } from '../printer.ts'

/**
 * Milliseconds to wait for the lock. A receiver with a damaged file starts a dispatcher again and again, each of them
 * for a moment.
 */
const lockTimeoutMs = 10_000

/** Rebuilds a `dispatch.db` that SQLite calls malformed. */
export const repair = defineCommand({
  name: 'repair',
  usage: '',
  summary: 'rebuilds a damaged dispatch.db from what is readable of it and from the journal',
  notes: [
    'What is not known to be done is pending again, so handlers may run again for events that they are done with; each is',
    'listed. The damaged file stays beside the new one, as dispatch.db.damaged-TIME. The receiver may run meanwhile and',
    'accepts posts; no dispatcher may. Exits with 1 when something cannot be known or brought back.',
  ],
  options: { yes: { type: 'boolean', short: 'y', description: 'do not ask' } },
  examples: ['repair', 'repair --yes', "repair --yes --json | jq -r 'select(.fate) | .event'"],
  args: 0,
  async run({ options, print }) {
    if (readSettings(process.env, 'databaseUrl').databaseUrl !== undefined)
      throw new Error('DATABASE_URL is set: the deliveries are in Postgres, which has its own tools for damage')
    const dataDir = findDataDir()
    const path = queuePath(dataDir)
    if (!existsSync(path)) throw new Error(`${path} is not there: start the receiver with DISPATCH_FROM`)
    const lock = await takeLock(dataDir)
    try {
      const damage = await damageOf(path)
      if (damage === undefined) {
        await print.result({ file: path, damage: null }, `${path} is not damaged: nothing was changed`)
        return undefined
      }
      print.note(damage)
      print.progress('reading what is readable, and the journal')
      const { plan, write } = await prepareRepair({ path, dataDir, log: createNoteLog(print) })
      await report(plan, print)
      const what = plan
        ? `${path} is to be rebuilt; the damaged file is kept beside it`
        : `nothing of ${path} is readable: it is to be moved away, and the next start needs DISPATCH_FROM, which says from where the handlers run again`
      if (!(await confirm(print, what, options.yes))) return exitCodes.failed
      const kept = write()
      await print.result(
        { file: path, kept, position: plan?.position ?? null, deliveries: plan?.rows.length ?? 0 },
        plan
          ? `${path} was rebuilt; the damaged file is ${kept}`
          : `the damaged file is ${kept}; set DISPATCH_FROM and start`,
      )
      return plan && plan.gone.length === 0 && plan.position ? undefined : exitCodes.failed
    } finally {
      lock.release()
    }
  },
})

async function takeLock(dataDir: string): Promise<{ release(): void }> {
  for (const end = Date.now() + lockTimeoutMs; ; await sleep(50))
    try {
      return lockDataDir(dataDir, 'dispatcher')
    } catch (error) {
      if (!(error instanceof DataDirInUse) || Date.now() > end) throw error
    }
}

async function damageOf(path: string): Promise<string | undefined> {
  if (statSync(path).size === 0) return `${path} is empty`
  try {
    await checkQueueFile(path)
    return undefined
  } catch (error) {
    return messageOf(error)
  }
}

async function report(plan: Plan | undefined, print: Printer): Promise<void> {
  if (plan === undefined) return
  const { rows, again, gone, position, isPositionRead } = plan
  for (const one of again)
    await print.result(
      { ...one, fate: 'runs again' },
      `${one.event} ${one.handler}: may have run already, and will run again: ${one.why}`,
    )
  for (const one of gone)
    await print.result({ ...one, fate: 'unknown' }, `${one.event} ${one.handler}: cannot run again: ${one.why}`)
  const where = position ? `segment ${position.segment}, byte ${position.offset}` : 'an unknown place'
  const how = isPositionRead
    ? 'the journal was followed to'
    : 'how far the journal was followed is not readable: following goes on at'
  print.note(
    `${rows.length - again.length} deliveries are readable, ${again.length} are pending again, ${gone.length} are lost; ${how} ${where}`,
  )
  if (position === undefined) print.note('the next start needs DISPATCH_FROM')
  print.note(
    'writes of handlers to Bitrix24 within the last 10 minutes are forgotten: their echoes may run handlers once',
  )
}
