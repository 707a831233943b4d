import { existsSync, watch } from 'node:fs'
import { access, constants, mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import closeWithGrace from 'close-with-grace'
import type { Logger } from 'pino'
import { createAdminServer } from './admin.ts'
import { type Config, readConfig } from './config.ts'
import { settleIdentity } from './dispatch/identity.ts'
import { settleFirstStart } from './dispatch/sqlite-queue.ts'
import { createServer } from './intake/server.ts'
import { createTokens, type Tokens } from './intake/token.ts'
import { openJournal } from './journal/journal.ts'
import { lockDataDir } from './journal/lock.ts'
import { codeOf, isJournalEmpty, journalDir, stableName } from './journal/segments.ts'
import { createLog } from './log.ts'
import { explainStart, StartError } from './start-error.ts'
import { type Supervisor, superviseDispatcher } from './supervisor.ts'

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
  const { dataDir, shutdownGrace: grace } = config
  await ensureWritable(dataDir)
  const lock = lockDataDir(dataDir, 'receiver')
  const { log, close: closeLog } = createLog(config.logLevel, 'receiver')
  const journal = await openJournal({ ...config, log })
  const isNew = await isJournalEmpty(dataDir)
  if (config.databaseUrl === undefined) settleFirstStart(dataDir, isNew)
  else settleIdentity(dataDir, isNew)
  const tokens = createTokens(config.tokens)
  const app = createServer({ config, tokens, journal, log, timeouts: { farewell: grace / 2 } })
  let supervisor: Supervisor | undefined
  const admin = createAdminServer({
    journalTrouble: journal.trouble,
    dispatcherTrouble: () => (config.dispatcher ? supervisor?.trouble() : undefined),
    hookTroubles: () => supervisor?.hookTroubles() ?? [],
  })
  await app.listen({ port: config.port, host: config.host, backlog })
  await admin.listen({ port: config.adminPort, host: config.adminHost })
  if (config.dispatcher) supervisor = superviseDispatcher({ grace, stall: config.handlerStall, log })

  // Where somebody sits at the terminal, its hang-up means stop; elsewhere SIGHUP means reload.
  const isTerminal = process.stdin.isTTY || process.stdout.isTTY
  const skip: 'SIGHUP'[] = isTerminal ? [] : ['SIGHUP']
  closeWithGrace({ delay: grace + lastMoments, logger: log, skip }, async ({ signal, err }) => {
    if (err) log.fatal({ err }, 'the receiver cannot go on')
    else log.info({ signal }, 'stopping')
    const limit = Math.max(0, grace - lastMoments)
    // A connection that was kept alive by an answer given meanwhile would hold us.
    const sweep = setInterval(() => app.server.closeIdleConnections(), 50)
    // Whoever is still sending then was never acknowledged.
    const cut = setTimeout(() => app.server.closeAllConnections(), limit)
    await Promise.all([app.close(), supervisor?.stop(limit)])
    clearInterval(sweep)
    clearTimeout(cut)
    await journal.close()
    await admin.close()
    lock.release()
    log.info('stopped')
    await closeLog()
  })
  if (!isTerminal) process.on('SIGHUP', () => void reload({ tokens, supervisor, log }))

  log.info(
    {
      tokens: config.tokens.map((token) => token.name ?? 'unnamed'),
      journal: stableName(dataDir),
      handlers: config.dispatcher ? config.handlersDir : 'none run: DISPATCHER=off',
      readyz: `http://${config.adminHost}:${config.adminPort}/readyz`,
    },
    `ready for events: POST ${config.webhookPath} on ${config.host}:${config.port}`,
  )
  if (supervisor && process.argv.includes('--watch')) watchHandlers(config.handlersDir, supervisor)
}

/** Secrets that come as files are read again; the handlers are loaded anew. */
async function reload({
  tokens,
  supervisor,
  log,
}: {
  tokens: Tokens
  supervisor: Supervisor | undefined
  log: Logger
}) {
  try {
    const config = readConfig(process.env)
    tokens.replace(config.tokens)
    log.info({ tokens: config.tokens.map((token) => token.name ?? 'unnamed') }, 'reloading')
  } catch (error) {
    log.error({ err: error }, 'the settings are wrong: the tokens stay as they were')
  }
  await supervisor?.reload()
}

function watchHandlers(dir: string, supervisor: Supervisor): void {
  let timer: NodeJS.Timeout | undefined
  watch(dir, () => {
    clearTimeout(timer)
    timer = setTimeout(() => void supervisor.reload(), settled)
  })
}

async function ensureWritable(dir: string): Promise<void> {
  let path = dir
  try {
    await mkdir(dir, { recursive: true })
    // What an earlier run left there may belong to another user.
    for (path of [
      dir,
      journalDir(dir),
      ...['receiver.lock', 'dispatcher.lock', 'dispatch.db', 'identity.json'].map((name) => join(dir, name)),
    ])
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
