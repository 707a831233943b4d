import { expect, test } from 'vitest'
import { readText } from '../support/docs.ts'

interface Locked {
  readonly optional?: boolean
  readonly engines?: { readonly node?: string }
}

test('npm ci on Node 20 warns of no engine: every package of the lock file admits it', () => {
  const { packages } = JSON.parse(readText('package-lock.json')) as { packages: Record<string, Locked> }
  const needNewer = Object.entries(packages)
    .filter(([, { optional, engines }]) => !optional && engines?.node !== undefined && !admits20(engines.node))
    .map(([path, { engines }]) => `${path} ${engines?.node}`)
  expect(needNewer, 'see CONTRIBUTING.md, "Change a dependency"').toEqual([])
})

/** Only as precise as the ranges that packages use: `>=18`, `^20.19.0 || >=22`, `20 || 22`, `*`. */
function admits20(range: string): boolean {
  return range.split('||').some((part) => {
    const [, operator, major = ''] = /^\s*(>=|>|\^|~)?\s*v?(\d+)/.exec(part) ?? []
    if (major === '') return part.trim() === '*'
    return operator?.startsWith('>') ? Number(major) <= 20 : Number(major) === 20
  })
}
