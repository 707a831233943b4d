import fc from 'fast-check'
import { onTestFailed } from 'vitest'

/** `SEED=… npx vitest run FILE` repeats the random choices of a run. */
const seed = Number(process.env['SEED'])

fc.configureGlobal({ seed })

/** fast-check with the seed of the run. The message of a failure names it. */
export { fc }

/** Random whole numbers from 0 to below a limit, the same for the same `SEED`. The output of a test that fails names it. */
export function createRandom(): (limit: number) => number {
  onTestFailed(() => void process.stderr.write(`SEED=${seed} repeats the random choices of this test\n`))
  let state = seed >>> 0
  // mulberry32
  return (limit) => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return Math.floor((((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32) * limit)
  }
}
