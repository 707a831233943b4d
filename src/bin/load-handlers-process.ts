import { basename } from 'node:path'
import type { FromLoader } from '../cli/doctor/handlers.ts'
import { readSettings } from '../config/config.ts'
import { lateReason } from '../dispatch/absent.ts'
import { HandlersError } from '../handler/handler-files.ts'
import { loadFiles } from '../handler/loader.ts'
import { resolvePackageAlias } from '../handler/package-alias.ts'
import { unknownEvents } from '../handler/unknown-events.ts'
import { openParent } from '../lib/child-process.ts'

// Loads the handlers in a process of its own, because a handler file may block or end it.

const parent = openParent<never, FromLoader>({ mayBlock: true })
parent.events.on('close', () => process.exit(1))
resolvePackageAlias()
await load()
parent.send({ type: 'end' }, () => process.exit(0))

async function load(): Promise<void> {
  const settings = readSettings(process.env, 'handlersDir', 'handlerLoadTimeout')
  const { handlersDir: dir, handlerLoadTimeout: timeout } = settings
  try {
    const { late, leftOut, problems } = await loadFiles(dir, {
      timeout,
      onLoading: (files) => parent.send({ type: 'loading', files: files.map((file) => basename(file)) }),
      // At once: a later file may block or end this process.
      onLoaded: (handler) =>
        parent.send({ type: 'loaded', name: handler.name, events: handler.events, unknown: unknownEvents(handler) }),
    })
    for (const { file, ...left } of leftOut) parent.send({ type: 'left out', file: basename(file), ...left })
    for (const { at, error } of problems) parent.send({ type: 'broken', at: basename(at), error: String(error) })
    for (const { file } of late) parent.send({ type: 'late', file: basename(file), reason: lateReason(timeout) })
  } catch (error) {
    const [problem] = error instanceof HandlersError ? error.problems : []
    parent.send({ type: 'broken', at: dir, error: String(problem?.error ?? error) })
  }
}
