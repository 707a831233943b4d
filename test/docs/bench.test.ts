import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { readText, root, tableOf } from '../support/docs.ts'

test.skipIf(process.platform !== 'linux')('the table of the benchmarks is that of the program', () => {
  const { stdout } = spawnSync(process.execPath, [join(root, 'bench/main.ts'), 'nonsense'], { encoding: 'utf8' })
  const names = tableOf('bench/README.md', 'name', 'what it prints').map(([name = '']) => name.replaceAll('`', ''))
  expect(stdout).toBe(`There is no bench "nonsense"; there are all, ${names.join(', ')}\n`)
})

test('the figures in README.md are those of the last table', () => {
  const lines = readText('README.md').match(/^\| (bare|Fastify|ours).*$/gm)
  expect(lines).toHaveLength(3)
  for (const line of lines ?? []) expect(readText('bench/README.md')).toContain(line)
})
