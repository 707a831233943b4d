import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { chmodSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import { buildImage, type Image, isIgnored, readDockerfile } from '../../support/dockerfile.ts'
import { readText } from '../../support/docs.ts'
import { dealBody, freePort, post, readJournal, TOKEN, until } from '../../support/receiver.ts'

const instructions = readDockerfile()
const only = (name: string) => instructions.filter((one) => one.name === name).map(({ text }) => text)
const manifest = JSON.parse(readText('package.json')) as { devDependencies: Record<string, string> }

test('the image has the Node that the tests run on', () => {
  expect(only('FROM')).toEqual([`node:${manifest.devDependencies['node']?.split('.')[0]}-slim`])
  expect(process.version).toBe(`v${manifest.devDependencies['node']}`)
})

test('no secret, no data and no foreign module can get into the image', () => {
  for (const path of ['.env', '.git/config', 'data/events.ndjson', 'node_modules/qs/package.json', 'compose.yaml'])
    expect(isIgnored(path), path).toBe(true)
})

test('the image does not run as root, gets its signals itself, and keeps its data in a volume', () => {
  expect(only('USER')).toEqual(['1000:1000'])
  expect(only('STOPSIGNAL')).toEqual(['SIGTERM'])
  expect(only('VOLUME')).toEqual(['/data'])
  expect(JSON.parse(only('CMD')[0] ?? '')[0]).toBe('node')
})

describe('a container, as far as a folder can be one', () => {
  let folder: string
  let image: Image

  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), 'b24-image-'))
    chmodSync(folder, 0o755)
    image = buildImage(folder)
  })
  afterAll(() => rmSync(folder, { recursive: true, force: true }))

  test('it holds what is needed to run and nothing that is needed to develop', () => {
    expect(readdirSync(image.inside('/app')).sort()).toEqual([
      'examples',
      'node_modules',
      'package-lock.json',
      'package.json',
      'src',
    ])
    for (const name of Object.keys(manifest.devDependencies))
      expect(existsSync(image.inside(`/app/node_modules/${name}`)), name).toBe(false)
  })

  test('it starts without mounts, is healthy, takes a post, writes nowhere but into /data, and stops with 0', async () => {
    const before = filesIn(folder, image)
    const container = await run(image)
    await until('healthy', () => container.health() === 0)
    const limits = readFileSync(`/proc/${container.child.pid}/limits`, 'utf8')
    expect(limits).toMatch(/^Max core file size +0 +0 /m)
    expect(readFileSync(`/proc/${container.child.pid}/cmdline`, 'utf8')).toMatch(/^node\0/)
    expect((await post(container.url, dealBody(662))).status).toBe(200)
    expect((await readJournal(image.inside('/data'))).map(({ object }) => object)).toEqual(['deal:662'])
    await until('the handlers folder was read', () => container.output().includes('no handlers'))
    container.child.kill('SIGTERM')
    expect(await container.exited).toEqual([0, null])
    expect(container.output()).not.toContain('Warning')
    expect(container.health()).not.toBe(0)
    expect(filesIn(folder, image)).toEqual(before)
  })

  test('b24-receiver is on the PATH, and sees the same data', async () => {
    const container = await run(image)
    expect((await post(container.url, dealBody(7))).status).toBe(200)
    const tool = (words: string) =>
      execFileSync('sh', ['-c', `b24-receiver ${words}`], { ...container.options, encoding: 'utf8' })
    const { version } = JSON.parse(readText('package.json')) as { version: string }
    expect(tool('--version')).toBe(`${version}\n`)
    expect(tool('tail -n 1')).toContain('ONCRMDEALUPDATE deal:7')
  })
})

/** The container's command, as its user, with its environment. */
async function run(image: Image) {
  const [port, adminPort] = [await freePort(), await freePort()]
  const isRoot = process.getuid?.() === 0
  const env: Record<string, string> = {
    PATH: `${image.inside('/usr/local/bin')}:${dirname(process.execPath)}:/usr/bin:/bin`,
    B24_APPLICATION_TOKEN: TOKEN,
    PORT: String(port),
  }
  for (const [name, value] of Object.entries(image.env)) env[name] = value.startsWith('/') ? image.inside(value) : value
  // The one thing that a container has for itself and a folder has not.
  env['ADMIN_PORT'] = String(adminPort)
  const options = { cwd: image.inside(image.workdir), env, ...(isRoot && { uid: image.uid, gid: image.uid }) }
  const [command = '', ...args] = image.command
  const child: ChildProcess = spawn(command, args, { ...options, stdio: ['ignore', 'pipe', 'pipe'] })
  let output = ''
  for (const stream of [child.stdout, child.stderr])
    stream?.setEncoding('utf8').on('data', (text: string) => {
      output += text
    })
  const exited = once(child, 'close')
  onTestFinished(async () => {
    child.kill('SIGKILL')
    await exited
  })
  await until(
    () => `ready\n${output}`,
    () => {
      if (child.exitCode !== null) throw new Error(`it ended at start:\n${output}`)
      return output.includes('ready for events')
    },
  )
  const [probe = '', ...probeArgs] = image.healthcheck
  return {
    child,
    options,
    exited,
    url: `http://127.0.0.1:${port}/bitrix24`,
    output: () => output,
    health: () => spawnSync(probe, probeArgs, options).status,
  }
}

/** Every file outside of /data, with what it holds and who may write it. */
function filesIn(folder: string, image: Image): string[] {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && !join(entry.parentPath, entry.name).startsWith(image.inside('/data')))
    .map((entry) => {
      const path = join(entry.parentPath, entry.name)
      const { size, mtimeMs, uid } = statSync(path)
      return `${path} ${size} ${mtimeMs} ${uid}`
    })
    .sort()
}
