import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, onTestFinished, test } from 'vitest'
import { robotBody } from '../../../src/simulator/robot-body.ts'
import { lostOrDoubled } from '../../support/load.ts'
import { clientAddress, postFrom } from '../../support/post-from.ts'
import { apacheHaproxy, haproxy, nginxHold, nginxPlain, type ProxySetup } from '../../support/proxies.ts'
import { stopProxy } from '../../support/proxy-programs.ts'
import {
  dealBody,
  freePort,
  post,
  type Receiver,
  startReceiver,
  temporaryFolder,
  until,
} from '../../support/receiver.ts'

describe.for([haproxy, nginxHold, apacheHaproxy])('behind $name (skipped where a program is missing)', (proxy) => {
  const { isThere } = proxy

  test.skipIf(!isThere)('restarts under load fail no post, and none is in the journal twice', async () => {
    const site = await startSite(proxy)
    const load = startPosting(site.url)
    for (let round = 1; round <= 3; round++) {
      await load.more(40)
      await site.restart('SIGTERM')
    }
    await load.more(40)
    await load.stop()
    expect(load.failed()).toEqual([])
    const events = await site.receiver().journal()
    expect(
      lostOrDoubled(
        load.objects(),
        events.map(({ object }) => object),
      ),
    ).toEqual({ lost: [], doubled: [] })
    expect(new Set(events.map(({ remote }) => remote))).toEqual(new Set([clientAddress]))
  })

  test.skipIf(!isThere)('receivers that are killed under load fail no post', async () => {
    const site = await startSite(proxy)
    const load = startPosting(site.url)
    for (let round = 1; round <= 3; round++) {
      await load.more(40)
      await site.restart('SIGKILL')
    }
    await load.more(40)
    await load.stop()
    expect(load.failed()).toEqual([])
    const objects = (await site.receiver().journal()).map(({ object }) => object)
    // Some may be there twice: a receiver that was killed had kept them, and could not say so.
    expect(lostOrDoubled(load.objects(), objects).lost).toEqual([])
  })

  test.skipIf(!isThere)('a long post that waited arrives whole', async () => {
    const site = await startSite(proxy)
    await site.kill()
    const body = `${dealBody(1)}&data%5BFIELDS%5D%5BNOTE%5D=${'x'.repeat(300_000)}`
    const waiting = postFrom(site.url, 1, body)
    await site.startAgain()
    expect(await waiting).toBe(200)
    const [event] = await site.receiver().journal()
    expect(JSON.stringify(event)).toContain('x'.repeat(300_000))
  })

  test.skipIf(!isThere)(
    'what the receiver refuses is refused with its code, and what is too long for it is not taken',
    async () => {
      const site = await startSite(proxy)
      const { status, body } = await post(site.url, dealBody(1, { token: 'wrong' }))
      expect({ status, error: JSON.parse(body).error }).toEqual({ status: 403, error: 'invalid_application_token' })
      expect((await fetch(site.url)).status).toBe(405)
      // 413, 502, or a reset: the receiver hangs up before the proxy has written the whole body.
      expect(await postFrom(site.url, 1, `${dealBody(1)}&more=${'x'.repeat(3 * 1024 ** 2)}`)).not.toBe(200)
      expect(await site.receiver().journal()).toEqual([])
    },
  )

  test.skipIf(!isThere)('the post of a robot waits, too, and its path is in no log of the proxy', async () => {
    const site = await startSite(proxy)
    await site.kill()
    const waiting = postFrom(site.robotUrl, 1, robotBody({ document: ['crm', 'CCrmDocumentDeal', 'DEAL_1'], portal }))
    await site.startAgain()
    expect(await waiting).toBe(200)
    expect(await postFrom(site.url, 2)).toBe(200)
    await site.stop()
    const files = readdirSync(site.folder, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile())
    const texts = files.map(({ parentPath, name }) => readFileSync(join(parentPath, name), 'utf8'))
    expect(texts.filter((text) => text.includes(secret))).toEqual([])
  })
})

test.skipIf(!nginxPlain.isThere)('plain nginx fails posts while the receiver is away, and no longer', async () => {
  const site = await startSite(nginxPlain)
  expect(await postFrom(site.url, 1)).toBe(200)
  await site.kill()
  expect(await postFrom(site.url, 2)).toBe(502)
  await site.startAgain()
  expect(await postFrom(site.url, 3)).toBe(200)
  const events = await site.receiver().journal()
  expect(events.map(({ object, remote }) => ({ object, remote }))).toEqual([
    { object: 'deal:1', remote: clientAddress },
    { object: 'deal:3', remote: clientAddress },
  ])
})

const secret = '0123456789abcdef0123456789abcdef'
const portal = { domain: 'example.bitrix24.com', memberId: 'a223c6b3710f85df22e9377d6c4f7553' }

/** A receiver behind a proxy, with the proxy's port in `url`. */
async function startSite(proxy: ProxySetup) {
  const [port, upstream, between] = [await freePort(), await freePort(), await freePort()]
  const options = { env: { PORT: String(upstream), TRUST_PROXY: '127.0.0.1', ROBOT_PATH: `/robot/${secret}` } }
  let receiver: Receiver = await startReceiver(options)
  const { dataDir } = receiver
  const folder = temporaryFolder('proxy')
  const programs = proxy.start({ folder, port, upstream, between })
  const stop = async () => void (await Promise.all(programs.map(stopProxy)))
  onTestFinished(stop)
  const url = `http://127.0.0.1:${port}/bitrix24`
  await until('the proxy serves', () =>
    fetch(url).then(
      ({ status }) => status === 405,
      () => false,
    ),
  )
  const end = async (signal: NodeJS.Signals) => {
    if (signal === 'SIGKILL') receiver.killGroup(signal)
    else receiver.child.kill(signal)
    await receiver.exited
  }
  const startAgain = async () => {
    receiver = await startReceiver({ ...options, dataDir })
  }
  return {
    url,
    robotUrl: url.replace('/bitrix24', options.env.ROBOT_PATH),
    /** Has everything that the proxy writes. */
    folder,
    receiver: () => receiver,
    /** Ends the proxy. */
    stop,
    kill: () => end('SIGKILL'),
    startAgain,
    async restart(signal: NodeJS.Signals) {
      await end(signal)
      await startAgain()
    },
  }
}

/** A few posts at a time, each on a connection of its own. */
function startPosting(url: string) {
  const answers = new Map<number, number | string>()
  let isPosting = true
  let last = 0
  const posters = Array.from({ length: 4 }, async () => {
    while (isPosting) {
      const id = ++last
      answers.set(id, await postFrom(url, id))
    }
  })
  return {
    failed: () => [...answers].filter(([, status]) => status !== 200),
    objects: () => [...answers.keys()].map((id) => `deal:${id}`),
    /** Resolves when so many more have their answer. */
    async more(count: number) {
      const before = answers.size
      await until('load', () => answers.size >= before + count)
    },
    async stop() {
      isPosting = false
      await Promise.all(posters)
    },
  }
}
