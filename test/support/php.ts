import { type PhpArray, type PhpValue, scalar } from '../../src/lib/php-query.ts'

export function isPhpArray(value: unknown): value is PhpArray {
  return typeof value === 'object' && value !== null && !Array.isArray(value) && Object.values(value).every(isPhpValue)
}

function isPhpValue(value: unknown): value is PhpValue {
  if (Array.isArray(value)) return value.every(isPhpValue)
  return value === null || ['string', 'number', 'boolean'].includes(typeof value) || isPhpArray(value)
}

/** What PHP reads back: everything is a text, null and what is empty is gone, dense keys below the root are a list. */
export function asPhpReadsIt(data: PhpArray): unknown {
  return Object.fromEntries(kept(data))
}

function kept(value: readonly PhpValue[] | PhpArray): [string, unknown][] {
  return Object.entries(value).flatMap(([key, item]): [string, unknown][] => {
    if (item === null) return []
    if (typeof item !== 'object') return [[key, scalar(item)]]
    const entries = kept(item)
    if (entries.length === 0) return []
    const isList = entries.every(([name], index) => name === String(index))
    return [[key, isList ? entries.map(([, inner]) => inner) : Object.fromEntries(entries)]]
  })
}
