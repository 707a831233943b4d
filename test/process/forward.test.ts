import { expect, test } from 'vitest'
import { post } from '../../src/simulator/post.ts'
import { samples } from '../support/intake.ts'
import { hasPhp, startPhp } from '../support/php-server.ts'
import { dealBody, startReceiver, TOKEN, temporaryFolder, until } from '../support/receiver.ts'

const handler = `import { forward } from 'bitrix24-webhook-receiver'
export default forward(process.env['OLD_PHP_URL'], { token: process.env['OLD_PHP_TOKEN'] })
`

/** As a webhook with our token sends them. */
const bodies = samples
  .filter(({ name }) => name.startsWith('webhook/'))
  .map(({ body }) => body.toString().replace(/(%5Bapplication_token%5D=)\w+/, `$1${TOKEN}`))

test.skipIf(!hasPhp)(
  'an existing hook.php sees no difference between the receiver and Bitrix24, also after a kill (php)',
  async () => {
    expect(bodies.length).toBeGreaterThan(70)
    const before = await startPhp()
    for (const body of bodies) expect(await post(before.url, body)).toMatchObject({ status: 200 })

    const now = await startPhp()
    const dataDir = temporaryFolder('forwarded')
    const start = () =>
      startReceiver({
        dataDir,
        handlers: { 'old-php.ts': handler },
        env: { OLD_PHP_URL: `${now.url}?secret=not-in-a-log`, OLD_PHP_TOKEN: TOKEN },
      })
    const first = await start()
    const half = Math.floor(bodies.length / 2)
    for (const body of bodies.slice(0, half)) expect(await first.post(body)).toMatchObject({ status: 200 })
    await until('the first half is there', () => now.posts().length === half)

    await now.stop()
    for (const body of bodies.slice(half)) expect(await first.post(body)).toMatchObject({ status: 200 })
    await until(
      () => `it was tried\n${first.output()}`,
      () => first.logged('failed, will be tried again').length > 0,
    )
    first.killGroup('SIGKILL')
    await first.exited

    await now.start()
    const second = await start()
    const keys = (await second.journal()).map(({ id }) => id)
    await until(
      () => `the second half is there\n${second.output()}`,
      () => {
        const there = new Set(now.posts().map(({ key }) => key))
        return keys.every((key) => there.has(key))
      },
    )

    // What was under way when the receiver was killed may be there twice, but under one key.
    const arrived = new Map(now.posts().map(({ key, body }) => [key, body]))
    expect([...arrived.values()].toSorted()).toEqual(bodies.toSorted())
    const printed = now.log().replaceAll('    [secret] => not-in-a-log\n', '')
    expect(new Set(blocksOf(printed))).toEqual(new Set(blocksOf(before.log())))
    expect(first.output() + second.output()).not.toMatch(/hook\.php|not-in-a-log/)
  },
)

test('a post that a handler forwards to its own receiver is refused there, and dead with the reason', async () => {
  const receiver = await startReceiver({
    handlers: {
      'loop.ts': `import { forward } from 'bitrix24-webhook-receiver'
const { PORT, B24_APPLICATION_TOKEN: token } = process.env
export default forward(\`http://127.0.0.1:\${PORT}/bitrix24\`, { token })
`,
    },
  })
  expect(await receiver.post(dealBody(1))).toMatchObject({ status: 200 })
  const dead = 'failed for good: this delivery is dead'
  await until(
    () => `it ended\n${receiver.output().slice(-2_000)}`,
    () => receiver.logged(dead).length > 0 || receiver.logged('handled').length > 5,
  )
  expect(await receiver.journal()).toHaveLength(1)
  expect(receiver.logged(dead)).toMatchObject([
    { err: { message: expect.stringContaining('is this receiver itself (409, forwarding_loop)') } },
  ])
})

test('a post that another receiver forwards is an event like any other', async () => {
  const behind = await startReceiver()
  const front = await startReceiver({
    env: { BEHIND: behind.url },
    handlers: {
      'chain.ts': `import { forward } from 'bitrix24-webhook-receiver'
export default forward(process.env['BEHIND'], { token: process.env['B24_APPLICATION_TOKEN'] })
`,
    },
  })
  await front.post(dealBody(1))
  await until('handled', () => front.logged('handled').length === 1)
  expect(await behind.journal()).toMatchObject([{ object: 'deal:1' }])
})

/** Each `print_r($_REQUEST)`. */
function blocksOf(log: string): string[] {
  return log.split(/^(?=Array$)/m)
}
