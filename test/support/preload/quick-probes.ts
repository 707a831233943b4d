import { syncBuiltinESMExports } from 'node:module'
import timers from 'node:timers/promises'

// Loaded before a process under test (`--import`): the minute between two probes of an incoming webhook is short there.
const { setTimeout: wait } = timers
const quickly: typeof wait = (ms, ...more) => wait(ms === 60_000 ? 300 : ms, ...more)
timers.setTimeout = quickly
syncBuiltinESMExports()
