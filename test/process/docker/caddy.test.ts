import { execFileSync, spawnSync } from 'node:child_process'
import { copyFileSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, onTestFinished, test } from 'vitest'
import { blockWith, root } from '../../support/docs.ts'
import { clientAddress, postFrom } from '../../support/post-from.ts'
import { hasCaddy, startCaddy, stopProxy } from '../../support/proxy-programs.ts'
import {
  dealBody,
  freePort,
  post,
  type Receiver,
  startReceiver,
  temporaryFolder,
  until,
} from '../../support/receiver.ts'

const caddyfile = join(root, 'Caddyfile')
const program = 'caddy'

describe.skipIf(!hasCaddy)('behind a real Caddy (skipped where there is none)', () => {
  test('the Caddyfile is valid and well-formed', () => {
    const env = { ...process.env, DOMAIN: 'hooks.example.com' }
    expect(spawnSync(program, ['validate', '--config', caddyfile, '--adapter', 'caddyfile'], { env }).status).toBe(0)
    expect(execFileSync(program, ['fmt', caddyfile], { encoding: 'utf8' })).toBe(readFileSync(caddyfile, 'utf8'))
  })

  test('the command of the README makes a Caddyfile for a receiver on the same machine', () => {
    const [sed = '', file = ''] = /^sed .* > (\S+)$/m.exec(blockWith('README.md', 'sed -e')) ?? []
    const cwd = temporaryFolder('caddyfile')
    copyFileSync(caddyfile, join(cwd, 'Caddyfile'))
    execFileSync('sh', ['-c', sed], { cwd })
    const adapted = execFileSync(program, ['adapt', '--config', file, '--adapter', 'caddyfile'], {
      cwd,
      encoding: 'utf8',
    })
    expect(adapted).toContain('"host":["hooks.example.com"]')
    expect(adapted).toContain('"dial":"127.0.0.1:8080"')
  })

  test('restarts under load fail no post: each is journalled once, with the address of its sender', async () => {
    const site = await startBehindCaddy()
    const answers = new Map<number, number | string>()
    let last = 0
    let isLoading = true
    const posters = Array.from({ length: 16 }, async () => {
      while (isLoading) {
        const id = ++last
        answers.set(id, await postFrom(site.url, id))
      }
    })
    let receiver: Receiver | undefined
    for (let round = 1; round <= 3; round++) {
      const acknowledged = answers.size
      await until('load', () => answers.size > acknowledged + 100)
      receiver = await site.restart()
    }
    const acknowledged = answers.size
    await until('load after the last restart', () => answers.size > acknowledged + 100)
    isLoading = false
    await Promise.all(posters)

    expect([...answers].filter(([, status]) => status !== 200)).toEqual([])
    const events = (await receiver?.journal()) ?? []
    expect(events.map(({ object }) => Number(object?.slice('deal:'.length))).sort((a, b) => a - b)).toEqual(
      [...answers.keys()].sort((a, b) => a - b),
    )
    expect(new Set(events.map(({ remote }) => remote))).toEqual(new Set([clientAddress]))
  })

  test('posts wait for a receiver that was killed', async () => {
    const site = await startBehindCaddy()
    site.receiver.killGroup('SIGKILL')
    await site.receiver.exited
    const waiting = [1, 2, 3].map((id) => postFrom(site.url, id))
    const next = await site.restart()
    expect(await Promise.all(waiting)).toEqual([200, 200, 200])
    const objects = (await next.journal()).map(({ object }) => object)
    expect(objects).toHaveLength(3)
    expect(new Set(objects)).toEqual(new Set(['deal:1', 'deal:2', 'deal:3']))
  })

  test('what the receiver refuses is refused through Caddy, and so is what is too long for Caddy', async () => {
    const { url, receiver } = await startBehindCaddy()
    expect((await post(url, dealBody(1, { token: 'wrong' }))).status).toBe(403)
    // 413, or 502 where the receiver hung up before Caddy had written the whole body.
    for (const size of [1024 ** 2, 3 * 1024 ** 2])
      expect((await post(url, `${dealBody(1)}&more=${'x'.repeat(size)}`)).status).toBeGreaterThanOrEqual(400)
    expect((await fetch(url)).status).toBe(405)
    expect(await receiver.journal()).toEqual([])
  })
})

/** The Caddyfile as it is, adapted by its variables only. */
async function startBehindCaddy() {
  const [port, upstream] = [await freePort(), await freePort()]
  const options = { env: { PORT: String(upstream), TRUST_PROXY: '127.0.0.1' } }
  let receiver = await startReceiver(options)
  const { dataDir } = receiver
  const caddy = startCaddy(temporaryFolder('caddy'), port, upstream)
  onTestFinished(() => stopProxy(caddy))
  const origin = `http://127.0.0.1:${port}`
  await until('Caddy serves', () =>
    fetch(`${origin}/healthz`).then(
      ({ ok }) => ok,
      () => false,
    ),
  )
  return {
    url: `${origin}/bitrix24`,
    receiver,
    async restart() {
      await receiver.stop()
      receiver = await startReceiver({ ...options, dataDir })
      return receiver
    },
  }
}
