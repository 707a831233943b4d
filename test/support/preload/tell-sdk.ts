import { writeSync } from 'node:fs'
import { registerHooks } from 'node:module'

// Loaded before a process under test (`--import`): says so on stderr when the SDK is imported.
registerHooks({
  resolve(specifier, context, next) {
    if (specifier.includes('b24jssdk')) writeSync(2, 'the SDK is imported\n')
    return next(specifier, context)
  },
})
