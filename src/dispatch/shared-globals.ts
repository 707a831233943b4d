/**
 * Protects the built-ins of the language and of Node, which every handler, this program and its libraries share in one
 * process. A handler that changes a built-in would change it for all.
 *
 * `--frozen-intrinsics` is not used: it is experimental and also forbids `error.name = …`. `defineProperty` for each property
 * is not used either: V8 then leaves its fast paths for arrays and promises, and a
 * loop over an array takes ten times as long.
 */

const fixed = { writable: false, configurable: false } as const

/** Globals that are not plain properties of the global object, and are replaced by name. */
const lazy = ['Buffer', 'performance', 'process'] as const

/**
 * Not frozen: libraries set `Error.stackTraceLimit`, replace methods of the console, and add to Reflect
 * (reflect-metadata).
 */
const left = new Set<unknown>([console, Error, globalThis, process, Reflect])

/** Safe to freeze: no code inherits a property from these and then assigns to it, and V8 is as fast with them frozen. */
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

/**
 * Checked after each run. If these were frozen, `value.toString = …` would fail on every object that inherits from them.
 */
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
 * Call it before the first handler is loaded. From then on an assignment to a built-in throws at its own line, so the
 * stack names the handler. In sloppy code, which some CommonJS modules are, the assignment does nothing.
 */
export function lockGlobals(): void {
  for (const name of lazy) Object.defineProperty(globalThis, name, { value: globalThis[name] })
  for (const name of Object.getOwnPropertyNames(globalThis)) {
    const { value, configurable } = Object.getOwnPropertyDescriptor(globalThis, name) ?? {}
    // A global that Node creates on first use, such as `crypto`, has no value yet.
    if (value === undefined || configurable !== true) continue
    if (!left.has(value) && (typeof value === 'function' || typeof value === 'object')) Object.freeze(value)
    Object.defineProperty(globalThis, name, { value, ...fixed })
  }
  for (const prototype of frozen) Object.freeze(prototype)
  for (const name of Object.getOwnPropertyNames(Reflect)) Object.defineProperty(Reflect, name, fixed)
  // If a handler changed these, the process would fail before the check after the run.
  for (const name of ['apply', 'bind', 'call']) Object.defineProperty(Function.prototype, name, fixed)
  Object.preventExtensions(Object.prototype)
}

/** @returns a function that restores the watched built-ins changed since its last call, and returns their names */
export function watchGlobals(): () => string[] {
  const known = Object.entries(watched).flatMap(([owner, object]) =>
    Reflect.ownKeys(object).flatMap((key) => {
      const descriptor = Object.getOwnPropertyDescriptor(object, key)
      const name = `${owner}.${typeof key === 'symbol' ? `[${key.description}]` : key}`
      // A getter, such as the flags of a regular expression, cannot be assigned to.
      return descriptor && 'value' in descriptor ? [{ name, object, key, value: descriptor.value, descriptor }] : []
    }),
  )
  return () => {
    // Comparing values takes a third of the time that comparing descriptors takes.
    const changed = known.filter(({ object, key, value }) => Reflect.get(object, key) !== value)
    for (const { object, key, descriptor } of changed) Reflect.defineProperty(object, key, descriptor)
    return changed.map(({ name }) => name)
  }
}

/**
 * A handler changed built-ins that all handlers share. They were restored, but code
 * may hold the changed ones in a variable.
 */
export class GlobalsChanged extends Error {
  override readonly name = 'GlobalsChanged'
  /** The handlers of which one made the change. */
  readonly handlers: readonly string[]

  constructor(changed: readonly string[], handlers: readonly string[]) {
    super(
      `${handlers.length === 1 ? `the handler ${handlers[0]}` : `one of the handlers ${handlers.join(', ')}`} changed ${changed.join(', ')}, which all handlers share: define a function of your own instead (docs/handlers.md)`,
    )
    this.handlers = handlers
  }
}
