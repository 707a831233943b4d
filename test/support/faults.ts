import { execFileSync, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, mkdtempSync, openSync, readdirSync, rmSync } from 'node:fs'
import { type FileHandle, open } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { onTestFinished } from 'vitest'
import { temporaryFolder, until } from './receiver.ts'

/** Whether system calls can be watched and made to fail; a container may forbid it. */
export const canTrace = spawnSync('strace', ['-o', '/dev/null', 'true']).status === 0

/** From now on this process can start no other, for want of memory. Resolves to what ends that; the test does, too. */
export async function forbidChildren(pid: number | undefined): Promise<() => Promise<unknown>> {
  const calls = 'clone,fork,vfork'
  const strace = spawn('strace', ['-p', String(pid), '-e', `trace=${calls}`, '-e', `inject=${calls}:error=ENOMEM`])
  const ended = once(strace, 'close')
  const end = () => {
    strace.kill()
    return ended
  }
  onTestFinished(async () => void (await end()))
  let said = ''
  strace.stderr.setEncoding('utf8').on('data', (text: string) => {
    said += text
  })
  await until('strace is attached', () => said.includes('attached'))
  return end
}

/** Whether a small disk can be had. */
export const canMount = tryMount()

/** A disk of its own, gone with the test. */
export function smallDisk(size: string): string {
  const folder = temporaryFolder('disk')
  execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${size}`, 'b24-test', folder])
  onTestFinished(() => void spawnSync('umount', ['--lazy', folder]))
  return folder
}

function tryMount(): boolean {
  const folder = mkdtempSync(join(tmpdir(), 'b24-mount-'))
  try {
    if (spawnSync('mount', ['-t', 'tmpfs', 'b24-test', folder]).status !== 0) return false
    return spawnSync('umount', [folder]).status === 0
  } finally {
    rmSync(folder, { recursive: true })
  }
}

/** Four, unless UV_THREADPOOL_SIZE says otherwise. */
const poolSize = Number(process.env['UV_THREADPOOL_SIZE'] ?? 4)

/**
 * Makes every disk operation of this process wait, as a disk does that does not answer: all threads of the pool are held
 * by pipes that nobody writes. Returns what lets them go.
 */
export function stallDisk(): () => Promise<void> {
  const folder = temporaryFolder('stall')
  const pipes = Array.from({ length: poolSize }, (_, index) => join(folder, String(index)))
  execFileSync('mkfifo', pipes)
  const opening = pipes.map((path): Promise<FileHandle> => open(path, 'r'))
  let released: Promise<void> | undefined
  const release = async () => {
    // Opened for both, a pipe waits for nobody; and its readers have found a writer.
    const writers = pipes.map((path) => openSync(path, 'r+'))
    for (const handle of await Promise.all(opening)) await handle.close()
    writers.forEach(closeSync)
  }
  const releaseOnce = () => {
    released ??= release()
    return released
  }
  onTestFinished(releaseOnce)
  return releaseOnce
}

export function openFiles(): number {
  return readdirSync('/proc/self/fd').length
}
