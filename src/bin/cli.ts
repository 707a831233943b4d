#!/usr/bin/env -S node --disable-sigusr1 --disable-warning=ExperimentalWarning
import './no-debugger.ts'
import './compile-cache.ts'

await import('./cli-process.ts')
