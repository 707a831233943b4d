import { ConfigError, readConfig } from '../../config/config.ts'
import { defineCommand } from '../command.ts'

export const work = defineCommand({
  name: 'work',
  usage: '',
  summary: 'runs handlers for the receivers on DATABASE_URL, until it is stopped',
  notes: [
    'Any number may run, on any machine, with the same handlers. SIGUSR2 and SIGHUP load the handlers anew, SIGTERM stops it',
    'within SHUTDOWN_GRACE. Its /readyz is on ADMIN_PORT; with several on one machine give each its own, or 0.',
  ],
  options: {},
  words: 0,
  examples: ['work', 'work --help'],
  async run() {
    const config = readConfig(process.env, 'dispatcher')
    if (config.databaseUrl === undefined)
      throw new ConfigError(['DATABASE_URL           is required: where the deliveries are'])
    // Other commands need none of it.
    const { startWorker } = await import('../../receiver/worker.ts')
    await startWorker(config)
    return 0
  },
})
