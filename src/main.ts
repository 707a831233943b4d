import { watch } from 'node:fs'
import { access, constants, mkdir } from 'node:fs/promises'
import closeWithGrace from 'close-with-grace'
import { type Config, ConfigError, EX_CONFIG, readConfig } from './config.ts'
import { createServer } from './intake/server.ts'
import { openJournal } from './journal/journal.ts'
import { DataDirInUse, lockDataDir } from './journal/lock.ts'
import { codeOf, stableName } from './journal/segments.ts'
import { createLog } from './log.ts'
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
  explain(error)
}

async function start(config: Config): Promise<void> {
  const log = createLog(config.logLevel, 'receiver')
  await ensureWritable(config.dataDir)
  const lock = lockDataDir(config.dataDir)
  const journal = await openJournal({ dataDir: config.dataDir, log })
  const app = createServer({ config, journal, log })
  const url = await app.listen({ port: config.port, host: config.host, backlog })
  const supervisor = config.dispatcher ? superviseDispatcher({ log, grace: config.shutdownGrace }) : undefined

  closeWithGrace({ delay: config.shutdownGrace + lastMoments, logger: log }, async ({ signal, err }) => {
    if (err) log.fatal({ err }, 'the receiver cannot go on')
    else log.info({ signal }, 'stopping')
    const limit = Math.max(0, config.shutdownGrace - lastMoments)
    // Whoever is still sending then was never acknowledged.
    const cut = setTimeout(() => app.server.closeAllConnections(), limit)
    await Promise.all([app.close(), supervisor?.stop(limit)])
    clearTimeout(cut)
    await journal.close()
    lock.release()
    log.info('stopped')
  })

  log.info(
    {
      url: `${url}${config.webhookPath}`,
      tokens: config.tokens.map((token) => token.name ?? 'unnamed'),
      journal: stableName(config.dataDir),
      handlers: config.dispatcher ? config.handlersDir : 'none run: DISPATCHER=off',
    },
    'ready for events',
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
  await mkdir(dir, { recursive: true })
  await access(dir, constants.W_OK | constants.X_OK)
}

/** A start that failed: what is wrong and what to do about it, on stderr. */
function explain(error: unknown): never {
  const { message, path, address, port } = error as NodeJS.ErrnoException & { address?: string; port?: number }
  const code = codeOf(error)
  const user = process.getuid?.()
  if (error instanceof ConfigError) stop(message, EX_CONFIG)
  if (error instanceof DataDirInUse) stop(message)
  if (code === 'EADDRINUSE') stop(`Port ${port} on ${address} is taken by another process: stop it, or set PORT.`)
  if (code === 'EACCES' && port !== undefined)
    stop(
      `User ${user} may not listen on port ${port}: ports below 1024 need root, so set PORT=8080 and put a proxy in front.`,
    )
  if (code === 'EADDRNOTAVAIL') stop(`HOST ${address} is no address of this machine.`)
  if (code === 'EACCES' || code === 'EPERM' || code === 'EROFS')
    stop(
      code === 'EROFS'
        ? `${path} is on a read-only file system: DATA_DIR must be writable.`
        : `User ${user} may not write to DATA_DIR (${path}). Run: chown -R ${user} ${path}`,
    )
  stop(error instanceof Error && error.stack ? error.stack : String(error))

  function stop(text: string, exitCode = 1): never {
    process.stderr.write(`${text}\n`)
    process.exit(exitCode)
  }
}
