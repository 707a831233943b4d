import { writeSync } from 'node:fs'
import { registerHooks } from 'node:module'

// Loaded before a process under test (`--import`): says so on stderr when pg-boss, or the driver below it, is imported.
registerHooks({
  resolve(specifier, context, next) {
    if (specifier === 'pg-boss' || specifier === 'pg') writeSync(2, `${specifier} is imported\n`)
    return next(specifier, context)
  },
})
