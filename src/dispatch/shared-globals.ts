/**
 * What every handler, this program and its libraries share in one process: the built-ins of the language and of Node. One
 * handler that changes them would change them for all.
 *
 * Not `--frozen-intrinsics`, which is experimental and also forbids `error.name = …`. And not by `defineProperty` of each
 * property: V8 then leaves its fast ways through arrays and promises, and a loop over an array takes ten times as long.
 */

const fixed = { writable: false, configurable: false } as const

/** What is replaced by name, where it is no plain property of the global object. */
const lazy = ['Buffer', 'performance', 'process'] as const

/** Libraries set `Error.stackTraceLimit`, replace methods of the console, and add to Reflect (reflect-metadata). */
const left = new Set<unknown>([console, Error, globalThis, process, Reflect])

/** Nothing inherits from these what it then assigns to itself, and V8 is as fast with them frozen. */
const frozen = [
  Array.prototype,
  Map.prototype,
  Set.prototype,
  WeakMap.prototype,
  WeakSet.prototype,
  Promise.prototype,
  AbortController.prototype,
  AbortSignal.prototype,
  URL.prototype,
  Object.getPrototypeOf([][Symbol.iterator]()),
  Object.getPrototypeOf(new Map()[Symbol.iterator]()),
  Object.getPrototypeOf(new Set()[Symbol.iterator]()),
]

/** Frozen, `value.toString = …` would fail for whatever inherits from them: they are looked at after each run. */
const watched = {
  'Object.prototype': Object.prototype,
  'Function.prototype': Function.prototype,
  'Error.prototype': Error.prototype,
  'String.prototype': String.prototype,
  'Number.prototype': Number.prototype,
  'Date.prototype': Date.prototype,
  'RegExp.prototype': RegExp.prototype,
}

/**
 * To be called before the first handler is loaded: from then on an assignment to a built-in throws where it stands, and
 * whoever wrote it is known. In sloppy code, of which there is some in CommonJS, it does nothing.
 */
export function lockGlobals(): void {
  for (const name of lazy) Object.defineProperty(globalThis, name, { value: globalThis[name] })
  for (const name of Object.getOwnPropertyNames(globalThis)) {
    const { value, configurable } = Object.getOwnPropertyDescriptor(globalThis, name) ?? {}
    // What Node makes when it is first used, such as `crypto`, has no value yet.
    if (value === undefined || configurable !== true) continue
    if (!left.has(value) && (typeof value === 'function' || typeof value === 'object')) Object.freeze(value)
    Object.defineProperty(globalThis, name, { value, ...fixed })
  }
  for (const prototype of frozen) Object.freeze(prototype)
  for (const name of Object.getOwnPropertyNames(Reflect)) Object.defineProperty(Reflect, name, fixed)
  // Without these nothing lives long enough to be looked at after a run.
  for (const name of ['apply', 'bind', 'call']) Object.defineProperty(Function.prototype, name, fixed)
  Object.preventExtensions(Object.prototype)
}

/** @returns puts back what was changed of the watched since the last look, and gives its names */
export function watchGlobals(): () => string[] {
  const known = Object.entries(watched).flatMap(([owner, object]) =>
    Reflect.ownKeys(object).flatMap((key) => {
      const descriptor = Object.getOwnPropertyDescriptor(object, key)
      const name = `${owner}.${typeof key === 'symbol' ? `[${key.description}]` : key}`
      // What is computed, such as the flags of a regular expression, cannot be assigned to.
      return descriptor && 'value' in descriptor ? [{ name, object, key, value: descriptor.value, descriptor }] : []
    }),
  )
  return () => {
    // By its value, which is a third of the time that descriptors take.
    const changed = known.filter(({ object, key, value }) => Reflect.get(object, key) !== value)
    for (const { object, key, descriptor } of changed) Reflect.defineProperty(object, key, descriptor)
    return changed.map(({ name }) => name)
  }
}
