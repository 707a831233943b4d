import { spawnSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { documentedEvents } from '../src/events/catalogue.ts'
import { remove, temporaryFolder } from './processes.ts'
import { printTable, progress, spread } from './table.ts'

const root = fileURLToPath(new URL('..', import.meta.url))
const files = 50
const times = 5

/** What the types of events cost an integrator's editor: tsc over a folder of handlers, against one that only imports ours. */
export async function types(): Promise<void> {
  const rows = [
    ['one handler without types', measure([`export default (event: Event) => event.id`])],
    [
      `${files} handlers, each of an event of its own`,
      measure(documentedEvents.slice(0, files).map((name) => handlerOf(`'${name}'`))),
    ],
    [
      `${files} handlers, each of a pattern or a list`,
      measure(Array.from({ length: files }, (_, index) => handlerOf(patterns[index % patterns.length] ?? ''))),
    ],
  ] as const
  progress('')
  printTable(
    'Type-checking a handlers folder, the start of tsc included',
    ['folder', 'ms'],
    rows.map(([what, taken]) => [what, spread(taken)]),
  )
}

const patterns = [
  `'ONCRMDEAL*'`,
  `'*'`,
  `['ONCRMLEADADD', 'ONCRMLEADUPDATE', 'ONTASKADD']`,
  `'ONCRM*USERFIELD*'`,
  `'ONCRMDYNAMICITEM*'`,
]

function handlerOf(names: string): string {
  return `export default defineHandler(${names}, (event, { log }) => log.info({ data: event.data }, event.event))`
}

function measure(sources: readonly string[]): number[] {
  const folder = temporaryFolder()
  const typeRoots = [join(root, 'node_modules/@types')]
  const paths = { 'bitrix24-webhook-receiver': [join(root, 'src/index.ts')] }
  const compilerOptions = {
    target: 'es2024',
    module: 'preserve',
    strict: true,
    noEmit: true,
    skipLibCheck: true,
    types: ['node'],
  }
  writeFileSync(
    join(folder, 'tsconfig.json'),
    JSON.stringify({ compilerOptions: { ...compilerOptions, allowImportingTsExtensions: true, typeRoots, paths } }),
  )
  for (const [index, source] of sources.entries())
    writeFileSync(
      join(folder, `handler${index}.ts`),
      `import { defineHandler, type Event } from 'bitrix24-webhook-receiver'\nexport type One = Event\nexport { defineHandler }\n${source}\n`,
    )
  const taken = Array.from({ length: times }, (_, time) => {
    progress(`types ${time + 1} of ${times}`)
    const since = performance.now()
    const { status, stdout } = spawnSync(join(root, 'node_modules/.bin/tsc'), ['-p', folder], { encoding: 'utf8' })
    if (status !== 0) throw new Error(stdout)
    return performance.now() - since
  })
  remove(folder)
  return taken
}
