import { execFileSync } from 'node:child_process'
import { existsSync, readdirSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { refusals } from '../../src/intake/refusal.ts'
import { blocksOf, blockWith, codeOf, pages, readText, root, tableOf, withTable } from '../support/docs.ts'
import { startReceiver, TOKEN, temporaryFolder } from '../support/receiver.ts'

// With `-u` this test writes its table.
test('the table in docs/answers.md is that of refusal.ts', async () => {
  const rows = Object.entries(refusals).map(([code, { status, meaning }]) => [String(status), `\`${code}\``, meaning])
  const page = 'docs/answers.md'
  const written = withTable(page, ['status', '`error`', 'meaning'], rows)
  await expect(written).toMatchFileSnapshot(join(root, page))
})

test('the folders in CONTRIBUTING.md may import what the check of the layout lets them import', () => {
  interface Rule {
    readonly name: string
    readonly to: { readonly pathNot: string }
  }
  const { forbidden }: { forbidden: readonly Rule[] } = createRequire(import.meta.url)(
    join(root, '.dependency-cruiser.cjs'),
  )
  const checked = forbidden.flatMap(({ name, to }) => {
    const [, folder] = /^(\w+)-imports$/.exec(name) ?? []
    const [, names = ''] = /\((.*)\)/.exec(to.pathNot ?? '') ?? []
    // Its row says "anything except `bin`".
    if (folder === undefined || folder === 'cli') return []
    return [
      [
        folder,
        names
          .split('|')
          .filter((one) => one !== folder)
          .toSorted(),
      ],
    ]
  })
  const written = [...readText('CONTRIBUTING.md').matchAll(/^\| `src\/(\w+)\/` \|.*\| (.*) \|$/gm)].flatMap(
    ([, folder = '', names = '']) =>
      ['bin', 'cli'].includes(folder)
        ? []
        : [[folder, [...names.matchAll(/`(\w+)`/g)].map(([, name = '']) => name).toSorted()]],
  )
  expect(checked.length).toBeGreaterThan(10)
  expect(Object.fromEntries(written)).toEqual(Object.fromEntries(checked))
})

test('the README has at most 200 lines', () => {
  expect(readText('README.md').trimEnd().split('\n').length).toBeLessThanOrEqual(200)
})

test('the index of decisions has every decision, with its title, date and status', () => {
  const files = readdirSync(join(root, 'docs/decisions')).filter((name) => /^\d{4}-.*\.md$/.test(name))
  const rows = files.toSorted().map((file) => {
    const page = readText(`docs/decisions/${file}`)
    const [, title] = /^# \d+\. (.*)$/m.exec(page) ?? []
    const [, date] = /^\* \*\*Date:\*\* (\d{4}-\d\d-\d\d)$/m.exec(page) ?? []
    const [, status] = /^\* \*\*Status:\*\* (.+)$/m.exec(page) ?? []
    return [file.slice(0, 4), `[${title}](${file})`, date, status]
  })
  expect(tableOf('docs/decisions/README.md', 'number', 'decision', 'date', 'status')).toEqual(rows)
  expect(new Set(rows.map(([number]) => number)).size).toBe(rows.length)
})

test('the glossary has at most 40 words, in order and each once', () => {
  const words = tableOf('docs/glossary.md', 'word', 'meaning').map(([word = '']) => word.replaceAll('*', ''))
  expect(words.length).toBeLessThanOrEqual(40)
  expect(words).toEqual([...new Set(words)].toSorted())
})

test('docs/log.md explains every field of the line that the README shows', () => {
  const shown = Object.keys(JSON.parse(blockWith('README.md', '"level":30')) as object)
  const explained = tableOf('docs/log.md', 'field', 'meaning').flatMap(([field = '']) => field.match(/\w+/g))
  expect(shown.filter((field) => !explained.includes(field))).toEqual([])
})

describe('the first event', () => {
  test('the curl command is answered as it says, and makes the line that it shows', async () => {
    const receiver = await startReceiver()
    const command = blockWith('README.md', 'curl -i').replace('localhost:8080', `127.0.0.1:${receiver.port}`)
    const cwd = temporaryFolder('checkout')
    writeFileSync(join(cwd, '.env'), readText('.env.example').replace('TOKEN=', `TOKEN=${TOKEN}`))
    const env = { PATH: process.env['PATH'] }
    const answer = execFileSync('sh', ['-c', command.replace('curl -i', 'curl -si')], { encoding: 'utf8', env, cwd })
    expect(answer).toMatch(/^HTTP\/1\.1 200 /)
    expect(answer.split('\r\n\r\n').at(-1)).toBe(blockWith('README.md', 'event accepted').trim())

    const shown: unknown = JSON.parse(blockWith('README.md', '"level":30'))
    const [event] = await receiver.journal()
    expect(event).toEqual({ ...(shown as object), id: event?.id, time: expect.any(String) })
    expect(Object.keys(event ?? {})).toEqual(Object.keys(shown as object))
  })

  test('the handler URL in a browser answers as it says', async () => {
    const receiver = await startReceiver()
    const answer = await fetch(receiver.url)
    expect(await answer.text()).toBe(blockWith('README.md', 'the address works').trim())
  })
})

describe.for([...pages, 'SECURITY.md', 'CHANGELOG.md'])('%s', (page) => {
  test('names only npm scripts that exist', () => {
    const { scripts } = JSON.parse(readText('package.json')) as { scripts: Record<string, string> }
    const named = [...readText(page).matchAll(/\bnpm (?:run ([\w:-]+)|(start|test))\b/g)].map(
      ([, script, short]) => script ?? short ?? '',
    )
    expect(named.filter((script) => !(script in scripts))).toEqual([])
  })

  test('names only files that exist, and links to pages that do', () => {
    const paths = codeOf(page).filter((code) => /^(\.?\/)?(src|test|docs|\.ci)\/[\w./-]+$/.test(code))
    const files = codeOf(page).filter((code) =>
      /^[A-Za-z.][\w.-]*\.(md|yaml|json)$|^Dockerfile$|^Caddyfile$/.test(code),
    )
    const inDataDir = [
      'allowed-ips.json',
      'erase.json',
      'identity.json',
      'journal.json',
      'loaded.json',
      'portals.json',
      'reloaded.json',
      'backfill.json',
    ]
    const ours = files.filter((file) => !['tsconfig.json', 'ONCRMTHINGADD.json', ...inDataDir].includes(file))
    // A new event's fixture, in the recipe that makes it.
    const there = [...paths.filter((path) => !path.includes('ONCRMTHINGADD')), ...ours]
    expect(there.filter((path) => !existsSync(join(root, path)))).toEqual([])
    const links = [...readText(page).matchAll(/\]\((?!https?:)([^)#]*)(#[^)]+)?\)/g)]
    const targets = links.map(([, file = '', heading]) => ({
      file: file === '' ? page : join(dirname(page), file),
      heading,
    }))
    expect(targets.filter(({ file }) => !existsSync(join(root, file)))).toEqual([])
    expect(targets.filter(({ file, heading }) => heading && !anchorsOf(file).includes(heading))).toEqual([])
  })

  test('shows JSON that is JSON', () => {
    const texts = blocksOf(page).filter(({ language }) => language === 'json')
    for (const { text } of texts) expect(() => JSON.parse(text)).not.toThrow()
  })
})

/** As GitHub makes them of headings. */
function anchorsOf(page: string): string[] {
  return [...readText(page).matchAll(/^#+ (.*)$/gm)].map(
    ([, heading = '']) =>
      `#${heading
        .toLowerCase()
        .replaceAll(/[^\p{L}\p{N} _-]/gu, '')
        .replaceAll(' ', '-')}`,
  )
}
