import { writeSync } from 'node:fs'
import { registerHooks } from 'node:module'

// Loaded before a process under test (`--import`): says so on stderr when undici or the official SDK is imported.
registerHooks({
  resolve(specifier, context, next) {
    const name = ['undici', 'b24jssdk'].find((one) => specifier.split('/').includes(one))
    if (name !== undefined) writeSync(2, `${name} is imported\n`)
    return next(specifier, context)
  },
})
