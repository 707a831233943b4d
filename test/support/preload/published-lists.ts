import { syncBuiltinESMExports } from 'node:module'
import timers from 'node:timers/promises'

// Loaded before a process under test (`--import`): Bitrix24's lists of addresses are those of `PUBLISHED_LISTS`, an
// origin, and the minutes between two looks are short.
const { fetch: ask } = globalThis
globalThis.fetch = (url, options) => {
  if (typeof url !== 'string') throw new Error('only texts are asked for here')
  return ask(url.replace(/^https:\/\/(dl\.bitrix24\.com|repos\.1c-bitrix\.ru)(?=\/webhook\/)/, origin()), options)
}

function origin(): string {
  return process.env['PUBLISHED_LISTS'] ?? 'http://127.0.0.1:1'
}

const { setTimeout: wait } = timers
const quickly: typeof wait = (ms, ...more) => wait(ms === 300_000 || ms === 60_000 ? 100 : ms, ...more)
timers.setTimeout = quickly
syncBuiltinESMExports()
