import { execFileSync } from 'node:child_process'
import { chmodSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { expect, test } from 'vitest'
import { writeFileAtomic, writeFileAtomicSync } from '../../../src/lib/atomic-file.ts'
import { canTrace } from '../../support/faults.ts'
import { temporaryFolder } from '../../support/receiver.ts'

const forms = [
  ['in the background', writeFileAtomic],
  ['at once', async (path: string, text: string) => writeFileAtomicSync(path, text)],
] as const

test.for(forms)('a file that is replaced %s is the new one, private, and alone in its folder', async ([, write]) => {
  const folder = temporaryFolder('atomic')
  const path = join(folder, 'file.json')
  const umask = process.umask(0)
  try {
    for (const text of ['one', 'two: Анна']) {
      await write(path, text)
      expect(readFileSync(path, 'utf8')).toBe(text)
      expect(statSync(path).mode & 0o777).toBe(0o600)
    }
  } finally {
    process.umask(umask)
  }
  chmodSync(folder, 0o750)
  await write(path, 'three')
  expect(statSync(path).mode & 0o777).toBe(0o640)
  expect(readdirSync(folder)).toEqual(['file.json'])
})

test.for(forms)('a file that cannot be replaced %s stays, and no other file is left', async ([, write]) => {
  const folder = temporaryFolder('atomic')
  const path = join(folder, 'file.json')
  mkdirSync(path)
  writeFileSync(join(path, 'inside'), 'old')
  await expect(write(path, 'new')).rejects.toThrow(/EISDIR|ENOTEMPTY/)
  expect(readdirSync(folder)).toEqual(['file.json'])
  expect(readFileSync(join(path, 'inside'), 'utf8')).toBe('old')
  await expect(write(join(folder, 'absent', 'file.json'), 'new')).rejects.toMatchObject({ code: 'ENOENT' })
})

test('two writers of one file at once leave the text of one of them', async () => {
  const folder = temporaryFolder('atomic')
  const path = join(folder, 'file.json')
  const texts = Array.from({ length: 20 }, (_, index) => String(index).repeat(100_000))
  await Promise.all(texts.map((text) => writeFileAtomic(path, text)))
  expect(texts).toContain(readFileSync(path, 'utf8'))
  expect(readdirSync(folder)).toEqual(['file.json'])
})

test.skipIf(!canTrace).for(['writeFileAtomic', 'writeFileAtomicSync'])(
  '%s syncs the new file, renames it, and syncs the folder, in this order (strace)',
  (name) => {
    const folder = temporaryFolder('atomic')
    const path = join(folder, 'file.json')
    const trace = join(temporaryFolder('trace'), 'trace')
    const source = pathToFileURL(join(import.meta.dirname, '../../../src/lib/atomic-file.ts')).href
    const script = `import { ${name} } from ${JSON.stringify(source)}
await ${name}(${JSON.stringify(path)}, 'text')`
    const watched = ['-f', '-y', '-e', 'trace=openat,write,fsync,rename', '-o', trace]
    execFileSync('strace', [...watched, process.execPath, '--input-type=module', '--eval', script])
    const calls = readFileSync(trace, 'utf8')
      .split('\n')
      .filter((line) => line.includes(folder) && !line.includes('resumed>'))
      .map((line) => line.replace(/^\d+ +/, '').replaceAll(/[\da-f]{8}-[\da-f-]{27}/g, 'UUID'))
      .map((line) => line.replaceAll(folder, '').replaceAll(/\d+</g, '<'))
    expect(calls).toEqual([
      expect.stringMatching(/^openat\(.*"\/file\.json\.UUID\.tmp", O_WRONLY\|O_CREAT\|O_EXCL\|.*, 0600/),
      expect.stringMatching(/^write\(<\/file\.json\.UUID\.tmp>, "text"/),
      expect.stringMatching(/^fsync\(<\/file\.json\.UUID\.tmp>/),
      expect.stringMatching(/^rename\("\/file\.json\.UUID\.tmp", "\/file\.json"/),
      expect.stringMatching(/^openat\(.*O_RDONLY/),
      expect.stringMatching(/^fsync\(<>/),
    ])
  },
)
