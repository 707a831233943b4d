import type { FormValue } from './form.ts'

/**
 * The form of a value on the wire. `Read` is its type and `checkOf` makes its check.
 *
 * - `'text'`, `'anything'`, `'undefined'` (that word itself), `'nothing'` (absent)
 * - `['undefined', { ID: 'text' }]`: one of these
 * - `{ ID: 'text', 'XML_ID?': 'text' }`: an object; a key with `?` may be absent
 * - `{ '*': 'text' }`: any keys besides the named ones
 * - `{ '[]': 'text' }`: a list
 *
 * http_build_query omits null and empty values. So a nullable field may be absent, and a list is never empty.
 */
export type Shape = keyof Leaves | readonly Shape[] | { readonly [key: string]: Shape }

interface Leaves {
  readonly text: string
  readonly anything: FormValue
  readonly undefined: 'undefined'
  readonly nothing: undefined
}

/** The type of a value with this shape. */
export type Read<S> = S extends keyof Leaves
  ? Leaves[S]
  : S extends readonly unknown[]
    ? Read<S[number]>
    : S extends { readonly '[]': infer Item }
      ? [Read<Item>, ...Read<Item>[]]
      : ReadFields<S> extends infer Fields
        ? // One object type instead of an intersection, because editors show it more readably.
          { [K in keyof Fields]: Fields[K] }
        : never

type ReadFields<S> = {
  readonly [K in keyof S as K extends '*' | `${string}?` ? never : K]: Read<S[K]>
} & {
  readonly [K in keyof S as K extends `${infer Name}?` ? Name : never]?: Read<S[K]>
} & {
  readonly [K in keyof S as K extends '*' ? string : never]: Read<S[K]>
}

export type Check = (value: FormValue | undefined) => boolean

const leaves: Readonly<Record<keyof Leaves, Check>> = {
  text: (value) => typeof value === 'string',
  anything: (value) => value !== undefined,
  undefined: (value) => value === 'undefined',
  nothing: (value) => value === undefined,
}

/**
 * Returns a function that checks whether a value has the shape. Extra keys are allowed, because Bitrix24 adds some
 * over time. The check runs for every post, so everything possible is prepared here.
 */
export function checkOf(shape: Shape): Check {
  if (typeof shape === 'string') return leaves[shape]
  if (isOneOf(shape)) {
    const checks = shape.map(checkOf)
    return (value) => checks.some((check) => check(value))
  }
  const { '[]': item, '*': other, ...named } = shape
  if (item !== undefined) {
    const check = checkOf(item)
    return (value) => Array.isArray(value) && value.every(check)
  }
  const fields = fieldsOf(named).map(({ key, isOptional, shape }) => ({ key, isOptional, check: checkOf(shape) }))
  const names = new Set(fields.map(({ key }) => key))
  const checkOther = other === undefined ? leaves.anything : checkOf(other)
  return (value) => {
    if (typeof value !== 'object' || Array.isArray(value)) return false
    for (const { key, isOptional, check } of fields) {
      const field = value[key]
      if (field === undefined ? !isOptional : !check(field)) return false
    }
    if (checkOther !== leaves.anything)
      for (const key in value) if (!names.has(key) && !checkOther(value[key])) return false
    return true
  }
}

/** The keys that an object's shape names, in the order of the wire. */
export function fieldsOf(shape: {
  readonly [key: string]: Shape
}): { readonly key: string; readonly isOptional: boolean; readonly shape: Shape }[] {
  return Object.entries(shape).map(([key, value]) => ({
    key: key.replace(/\?$/, ''),
    isOptional: key.endsWith('?'),
    shape: value,
  }))
}

export function isOneOf(shape: Shape): shape is readonly Shape[] {
  return Array.isArray(shape)
}
