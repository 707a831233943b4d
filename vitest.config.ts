import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    globalSetup: 'test/support/suite-folder.ts',
    pool: 'forks',
    // Most of them wait for processes of their own.
    maxWorkers: 4,
    // They bound what hangs, on a machine that has other things to do.
    testTimeout: 120_000,
    hookTimeout: 120_000,
    expect: { poll: { timeout: 60_000 } },
  },
})
