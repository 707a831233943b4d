import { basename, join } from 'node:path'
import { readSettings } from '../../config.ts'
import { resolveOurName } from '../../dispatch/our-name.ts'
import { HandlersError, handlerFiles, loadHandler, placeOf, unknownEvents } from '../../dispatch/registry.ts'

// Loads the handlers in a process that they may block or end.

/** What it tells. */
export type FromLoader =
  | { readonly type: 'loading'; readonly file: string }
  | {
      readonly type: 'loaded'
      readonly name: string
      readonly events: readonly string[]
      readonly unknown: readonly { readonly event: string; readonly nearest: string | undefined }[]
    }
  | { readonly type: 'broken'; readonly at: string; readonly error: string }
  | { readonly type: 'end' }

process.on('disconnect', () => process.exit(1))
resolveOurName()
await load(readSettings(process.env, 'HANDLERS_DIR').HANDLERS_DIR)
process.send?.({ type: 'end' } satisfies FromLoader, undefined, undefined, () => process.exit(0))

async function load(dir: string): Promise<void> {
  const names = new Set<string>()
  for (const file of await listFiles(dir)) {
    tell({ type: 'loading', file })
    const path = join(dir, file)
    try {
      const handler = await loadHandler(path)
      if (names.has(handler.name)) throw new TypeError('there is another handler of the same name')
      names.add(handler.name)
      tell({ type: 'loaded', name: handler.name, events: handler.events, unknown: unknownEvents(handler) })
    } catch (error) {
      tell({ type: 'broken', at: basename(await placeOf(error, path)), error: String(error) })
    }
  }
}

async function listFiles(dir: string): Promise<readonly string[]> {
  try {
    return await handlerFiles(dir)
  } catch (error) {
    const [problem] = error instanceof HandlersError ? error.problems : []
    tell({ type: 'broken', at: dir, error: String(problem?.error ?? error) })
    return []
  }
}

function tell(message: FromLoader): void {
  process.send?.(message)
}
