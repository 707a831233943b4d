/** What each folder of src may import, beside itself; a test holds the table of CONTRIBUTING.md to it. */
const layers = {
  lib: [],
  events: ['lib'],
  bitrix24: ['events', 'lib'],
  journal: ['events', 'lib'],
  backfill: ['bitrix24', 'journal', 'events', 'lib'],
  config: ['bitrix24', 'backfill', 'events', 'lib'],
  intake: ['config', 'journal', 'events', 'lib'],
  handler: ['bitrix24', 'events', 'lib'],
  queue: ['config', 'bitrix24', 'journal', 'events', 'lib'],
  alerts: ['lib'],
  dispatch: ['queue', 'handler', 'backfill', 'journal', 'bitrix24', 'events', 'alerts', 'config', 'lib'],
  receiver: ['intake', 'journal', 'queue', 'dispatch', 'alerts', 'bitrix24', 'events', 'config', 'lib'],
  simulator: ['events', 'lib'],
}
const folders = [...Object.keys(layers), 'cli']

/** These act when they are imported: others start them as processes or threads. */
const entries = '^src/bin/'

const folderRules = Object.entries({ ...layers, cli: folders }).map(([folder, allowed]) => ({
  name: `${folder}-imports`,
  severity: 'error',
  from: { path: `^src/${folder}/` },
  to: { path: '^src/', pathNot: `^src/(${[folder, ...allowed].join('|')})/` },
}))

/** @type {import('dependency-cruiser').IConfiguration} */
module.exports = {
  forbidden: [
    ...folderRules,
    // The face of the package is index.ts, and every other file stands in a folder above.
    {
      name: 'no-loose-file',
      severity: 'error',
      from: {},
      to: { path: '^src/', pathNot: `^src/(index\\.ts$|bin/|(${folders.join('|')})/)` },
    },
    { name: 'no-import-of-bin', severity: 'error', from: { pathNot: entries }, to: { path: entries } },
    {
      name: 'examples-import-the-package',
      severity: 'error',
      from: { path: '^examples/' },
      to: { path: '^src/', pathNot: '^src/index\\.ts$' },
    },
    { name: 'no-circle', severity: 'error', from: {}, to: { circular: true } },
  ],
  options: {
    doNotFollow: { path: 'node_modules' },
    parser: 'swc',
    tsPreCompilationDeps: true,
    tsConfig: { fileName: 'tsconfig.json' },
    enhancedResolveOptions: { extensions: ['.ts', '.js'] },
  },
}
