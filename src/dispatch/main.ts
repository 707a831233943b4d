import { mkdir } from 'node:fs/promises'
import { registerHooks } from 'node:module'
import { join } from 'node:path'
import { readConfig } from '../config.ts'
import { journalDir } from '../journal/segments.ts'
import { createLog } from '../log.ts'
import { startDispatcher } from './dispatcher.ts'
import { HandlersError, loadHandlers, unknownEvents } from './registry.ts'
import { openSqliteQueue } from './sqlite-queue.ts'

// Handlers may lie in any folder; what they import under our name is this running source.
registerHooks({
  resolve: (specifier, context, next) =>
    next(specifier === 'bitrix24-webhook-receiver' ? new URL('../index.ts', import.meta.url).href : specifier, context),
})

const config = readConfig(process.env)
const log = createLog(config.logLevel, 'dispatcher')
const starting = start()

async function start(): Promise<{ stop(): Promise<void> } | undefined> {
  try {
    const handlers = await loadHandlers(config.handlersDir)
    for (const { name, events } of handlers) log.info({ handler: name, events }, 'handler loaded')
    for (const handler of handlers)
      for (const event of unknownEvents(handler))
        log.warn({ handler: handler.name, event }, 'the documentation does not know this event: is it spelt right?')
    if (handlers.length === 0) log.warn({ dir: config.handlersDir }, 'no handlers: events are journalled only')
    await mkdir(journalDir(config.dataDir), { recursive: true })
    const queue = openSqliteQueue({ path: join(config.dataDir, 'dispatch.db') })
    const dispatcher = startDispatcher({ ...config, handlers, queue, log })
    // A journal or a queue that cannot be used ends this process; the receiver starts the next one.
    dispatcher.finished.catch(fail)
    return {
      async stop() {
        await dispatcher.stop()
        await queue.close()
      },
    }
  } catch (error) {
    if (!(error instanceof HandlersError)) return fail(error)
    // Its events wait in the journal until the file is mended: following without it would pass them over.
    for (const { file, error: cause } of error.problems) log.error({ file, err: cause }, 'a handler cannot be loaded')
    log.error('no handler runs until this is mended and the receiver is started again')
    return undefined
  }
}

function fail(error: unknown): never {
  log.fatal({ err: error }, 'the dispatcher cannot go on')
  process.exit(1)
}

async function stop(): Promise<void> {
  await (await starting)?.stop()
  process.exit(0)
}

// The receiver speaks through the channel and is gone when it closes. Signals of the terminal reach both of us; the
// receiver decides what they mean.
process.on('SIGINT', () => undefined)
process.on('SIGHUP', () => undefined)
process.once('SIGTERM', () => void stop())
process.once('message', () => void stop())
process.once('disconnect', () => process.exit(0))
