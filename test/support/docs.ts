import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'

/** The checkout. */
export const root = join(import.meta.dirname, '../..')

export function readText(path: string): string {
  return readFileSync(join(root, path), 'utf8')
}

/** Every page of the documentation, as paths within the checkout. */
export const pages: readonly string[] = [
  'README.md',
  'CONTRIBUTING.md',
  'bench/README.md',
  ...readdirSync(join(root, 'docs'), { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.md'))
    .map((name) => join('docs', name))
    .sort(),
]

export interface Block {
  readonly language: string
  readonly text: string
}

/** The fenced blocks of a page. */
export function blocksOf(page: string): Block[] {
  return [...readText(page).matchAll(/^```(\w*)\n(.*?)^```$/gms)].map(([, language = '', text = '']) => ({
    language,
    text,
  }))
}

/** The one block of a page that has this in it. */
export function blockWith(page: string, part: string): string {
  const [block, ...more] = blocksOf(page).filter(({ text }) => text.includes(part))
  if (block === undefined || more.length > 0) throw new Error(`${page}: ${more.length + 1} blocks have ${part}`)
  return block.text
}

/** Handler files shown on a page: the first line of such a block names its file. */
export function filesOf(page: string): Record<string, string> {
  return Object.fromEntries(
    blocksOf(page)
      .filter(({ language }) => language === 'ts' || language === 'js')
      .map(({ text }) => {
        const name = /^\/\/ (\w[\w.-]*\.m?[tj]s)\n/.exec(text)?.[1]
        if (name === undefined) throw new Error(`${page}: a block does not name its file:\n${text}`)
        return [name, text]
      }),
  )
}

/** The cells of the table that has these heads, without the heads. */
export function tableOf(page: string, ...heads: readonly string[]): string[][] {
  const lines = readText(page).split('\n')
  const start = lines.indexOf(`| ${heads.join(' | ')} |`)
  if (start === -1) throw new Error(`${page} has no table of ${heads.join(', ')}`)
  const rows = lines.slice(start + 2)
  return rows
    .slice(
      0,
      rows.findIndex((line) => !line.startsWith('|')),
    )
    .map((line) =>
      line
        .split('|')
        .slice(1, -1)
        .map((cell) => cell.trim()),
    )
}

/** The page, with these rows in the table that has these heads. */
export function withTable(page: string, heads: readonly string[], rows: readonly (readonly string[])[]): string {
  const lines = readText(page).split('\n')
  const start = lines.indexOf(`| ${heads.join(' | ')} |`)
  if (start === -1) throw new Error(`${page} has no table of ${heads.join(', ')}`)
  const length = lines.slice(start).findIndex((line) => !line.startsWith('|'))
  return lines.toSpliced(start + 2, length - 2, ...rows.map((cells) => `| ${cells.join(' | ')} |`)).join('\n')
}

/** What stands between backticks in the running text. */
export function codeOf(page: string): string[] {
  const prose = readText(page).replace(/^```.*?^```$/gms, '')
  return [...prose.matchAll(/`([^`\n]+)`/g)].map(([, code = '']) => code)
}
