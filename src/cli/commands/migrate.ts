import { ConfigError, readSettings } from '../../config/config.ts'
import { heartbeatOf } from '../../queue/identity.ts'
import { defineCommand } from '../command.ts'
import { findDataDir } from '../data.ts'
import { UsageError } from '../usage-error.ts'

export const migrate = defineCommand({
  name: 'migrate',
  usage: 'postgres|embedded',
  summary: 'moves the deliveries into the Postgres of DATABASE_URL, or back into DATA_DIR',
  notes: [
    'What waits, what is dead and how far the journal was followed go along. The handlers must not run meanwhile: stop the',
    'receiver, and for the way back every receiver and worker.',
  ],
  options: {},
  args: 1,
  examples: ['migrate postgres', 'migrate embedded'],
  async run({ args: [to], print }) {
    if (to !== 'postgres' && to !== 'embedded') throw new UsageError('expected: migrate postgres, or migrate embedded')
    const { databaseUrl: url, handlerStall: stall } = readSettings(process.env, 'databaseUrl', 'handlerStall')
    if (url === undefined) throw new ConfigError(['DATABASE_URL is required: the Postgres to move to, or back from'])
    const parts = { dataDir: findDataDir(), url, heartbeat: heartbeatOf(stall) }
    const { deliveries, pending } =
      to === 'postgres'
        ? await (await import('../../queue/migrate/to-postgres.ts')).moveToPostgres(parts)
        : await (await import('../../queue/migrate/to-embedded.ts')).moveToEmbedded(parts)
    await print.result({ deliveries, pending }, `${deliveries} deliveries moved, ${pending} of them to be run`)
    return undefined
  },
})
