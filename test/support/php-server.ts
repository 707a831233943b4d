import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { onTestFinished } from 'vitest'
import { freePort, temporaryFolder, until } from './receiver.ts'

export const hasPhp = spawnSync('php', ['-v']).status === 0

/** What people paste, and beside it the very bytes, each post on a line, with the key it came with. */
const incomingWebhook = `<?php
file_put_contents(__DIR__ . '/hook.log', print_r($_REQUEST, true), FILE_APPEND);
$key = $_SERVER['HTTP_IDEMPOTENCY_KEY'] ?? '';
file_put_contents(__DIR__ . '/posts.log', $key . ' ' . file_get_contents('php://input') . "\\n", FILE_APPEND);
`

export interface PhpServer {
  /** Of its `hook.php`. */
  readonly url: string
  /** The posts that `hook.php` has had, as they came. */
  readonly posts: () => { readonly key: string; readonly body: string }[]
  /** Everything it has printed of `$_REQUEST`. */
  readonly log: () => string
  readonly start: () => Promise<void>
  readonly stop: () => Promise<void>
}

/** PHP's own web server with a `hook.php` in a folder of its own; it ends with the test. */
export async function startPhp(source = incomingWebhook): Promise<PhpServer> {
  const folder = temporaryFolder('php')
  const port = await freePort()
  const url = `http://127.0.0.1:${port}/hook.php`
  writeFileSync(join(folder, 'hook.php'), source)
  const read = (name: string) => (existsSync(join(folder, name)) ? readFileSync(join(folder, name), 'utf8') : '')
  let child: ChildProcess | undefined

  async function start(): Promise<void> {
    const started = spawn('php', ['-S', `127.0.0.1:${port}`, '-t', folder], { stdio: 'ignore' })
    child = started
    await until('PHP serves', () =>
      fetch(`http://127.0.0.1:${port}/none.txt`).then(
        () => true,
        () => false,
      ),
    )
  }

  async function stop(): Promise<void> {
    const ended = child && child.exitCode === null && child.signalCode === null ? once(child, 'exit') : undefined
    child?.kill('SIGKILL')
    await ended
  }

  onTestFinished(stop)
  await start()
  return {
    url,
    posts: () =>
      read('posts.log')
        .split('\n')
        .slice(0, -1)
        .map((line) => ({ key: line.slice(0, line.indexOf(' ')), body: line.slice(line.indexOf(' ') + 1) })),
    log: () => read('hook.log'),
    start,
    stop,
  }
}
