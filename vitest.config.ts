import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    globalSetup: 'test/support/suite-folder.ts',
    pool: 'forks',
    // Most of them wait for processes of their own.
    maxWorkers: 4,
    // They end what hangs, and nothing that is only slow. No test has a shorter one of its own.
    testTimeout: process.env['ROUNDS'] ? 7_200_000 : 900_000,
    hookTimeout: 900_000,
    expect: { poll: { timeout: process.env['ROUNDS'] ? 3_600_000 : 300_000 } },
  },
})
