import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    pool: 'forks',
    // Most of them wait for processes of their own.
    maxWorkers: 4,
    testTimeout: 30_000,
  },
})
