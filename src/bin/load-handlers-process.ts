import { basename } from 'node:path'
import type { FromLoader } from '../cli/doctor/load-messages.ts'
import { readSettings } from '../config/config.ts'
import { lateReason } from '../dispatch/absent.ts'
import { HandlersError, loadFiles, unknownEvents } from '../handler/loader.ts'
import { resolvePackageAlias } from '../handler/package-alias.ts'

// Loads the handlers in a process of its own, because a handler file may block or end it.

process.on('disconnect', () => process.exit(1))
resolvePackageAlias()
await load()
process.send?.({ type: 'end' } satisfies FromLoader, undefined, undefined, () => process.exit(0))

async function load(): Promise<void> {
  const settings = readSettings(process.env, 'handlersDir', 'handlerLoadTimeout')
  const { handlersDir: dir, handlerLoadTimeout: timeout } = settings
  try {
    const { handlers, late, leftOut, problems } = await loadFiles(dir, {
      timeout,
      onLoading: (files) => tell({ type: 'loading', files: files.map((file) => basename(file)) }),
    })
    for (const handler of handlers)
      tell({ type: 'loaded', name: handler.name, events: handler.events, unknown: unknownEvents(handler) })
    for (const { file, ...left } of leftOut) tell({ type: 'left out', file: basename(file), ...left })
    for (const { at, error } of problems) tell({ type: 'broken', at: basename(at), error: String(error) })
    for (const { file } of late) tell({ type: 'late', file: basename(file), reason: lateReason(timeout) })
  } catch (error) {
    const [problem] = error instanceof HandlersError ? error.problems : []
    tell({ type: 'broken', at: dir, error: String(problem?.error ?? error) })
  }
}

function tell(message: FromLoader): void {
  process.send?.(message)
}
