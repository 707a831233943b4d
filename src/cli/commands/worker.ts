import { ConfigError, readConfig } from '../../config/config.ts'
import { defineCommand } from '../command.ts'

export const worker = defineCommand({
  name: 'worker',
  usage: '',
  summary: 'runs handlers for the receivers on DATABASE_URL, until it is stopped',
  notes: [
    'Any number may run, on any machine, with the same handlers. SIGUSR2 and SIGHUP load the handlers again, SIGTERM stops it',
    'within SHUTDOWN_GRACE. Its /readyz is on ADMIN_PORT; with several on one machine give each its own, or 0.',
  ],
  options: {},
  args: 0,
  examples: ['worker', 'worker --help'],
  async run() {
    const config = readConfig(process.env, 'dispatcher')
    if (config.databaseUrl === undefined)
      throw new ConfigError(['DATABASE_URL           is required: where the deliveries are'])
    // Other commands do not need this module.
    const { startWorker } = await import('../../receiver/worker.ts')
    await startWorker(config)
    return 0
  },
})
