import { existsSync, watch } from 'node:fs'
import { access, constants, mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import closeWithGrace from 'close-with-grace'
import { type Config, readConfig } from './config.ts'
import { createServer } from './intake/server.ts'
import { openJournal } from './journal/journal.ts'
import { lockDataDir } from './journal/lock.ts'
import { codeOf, journalDir, stableName } from './journal/segments.ts'
import { createLog } from './log.ts'
import { explainStart, StartError } from './start-error.ts'
import { superviseDispatcher } from './supervisor.ts'

/** Bitrix24 opens a connection per event, a thousand of them after a bulk edit. */
const backlog = 4096

/** What remains of the grace for fsync and exit after the last connection was cut, in milliseconds. */
const lastMoments = 500

/** Editors save a file in several steps. */
const settled = 200

try {
  await start(readConfig(process.env))
} catch (error) {
  const { text, exitCode } = explainStart(error)
  process.stderr.write(`${text}\n`)
  process.exit(exitCode)
}

async function start(config: Config): Promise<void> {
  const log = createLog(config.logLevel, 'receiver')
  await ensureWritable(config.dataDir)
  const lock = lockDataDir(config.dataDir)
  const journal = await openJournal({ dataDir: config.dataDir, log })
  const app = createServer({ config, journal, log, timeouts: { farewell: config.shutdownGrace / 2 } })
  await app.listen({ port: config.port, host: config.host, backlog })
  const supervisor = config.dispatcher ? superviseDispatcher({ log, grace: config.shutdownGrace }) : undefined

  closeWithGrace({ delay: config.shutdownGrace + lastMoments, logger: log }, async ({ signal, err }) => {
    if (err) log.fatal({ err }, 'the receiver cannot go on')
    else log.info({ signal }, 'stopping')
    const limit = Math.max(0, config.shutdownGrace - lastMoments)
    // A connection that was kept alive by an answer given meanwhile would hold us.
    const sweep = setInterval(() => app.server.closeIdleConnections(), 50)
    // Whoever is still sending then was never acknowledged.
    const cut = setTimeout(() => app.server.closeAllConnections(), limit)
    await Promise.all([app.close(), supervisor?.stop(limit)])
    clearInterval(sweep)
    clearTimeout(cut)
    await journal.close()
    lock.release()
    log.info('stopped')
  })

  log.info(
    {
      tokens: config.tokens.map((token) => token.name ?? 'unnamed'),
      journal: stableName(config.dataDir),
      handlers: config.dispatcher ? config.handlersDir : 'none run: DISPATCHER=off',
    },
    `ready for events: POST ${config.webhookPath} on ${config.host}:${config.port}`,
  )
  if (supervisor && process.argv.includes('--watch')) {
    let timer: NodeJS.Timeout | undefined
    watch(config.handlersDir, () => {
      clearTimeout(timer)
      timer = setTimeout(() => void supervisor.restart(), settled)
    })
  }
}

async function ensureWritable(dir: string): Promise<void> {
  let path = dir
  try {
    await mkdir(dir, { recursive: true })
    // What an earlier run left there may belong to another user.
    for (path of [dir, journalDir(dir), join(dir, 'receiver.lock'), join(dir, 'dispatch.db')])
      if (existsSync(path)) await access(path, constants.W_OK)
  } catch (error) {
    const user = process.getuid?.()
    if (codeOf(error) === 'EROFS')
      throw new StartError(`${path} is on a read-only file system: set DATA_DIR`, { cause: error })
    if (codeOf(error) === 'EACCES')
      throw new StartError(`User ${user} may not write to ${path}. Run: chown -R ${user} ${dir}`, { cause: error })
    throw new StartError(`DATA_DIR ${path} cannot be used: ${String(error)}`, { cause: error })
  }
}
