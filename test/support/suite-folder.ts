import { execFileSync } from 'node:child_process'
import { chmodSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

/**
 * Makes one temporary folder for the whole run, and removes it with all that is in it at the end. What a test would clean
 * up itself is there, too, because the process of the test may die first. The seed of the run is chosen here, so that
 * all test files have the same.
 */
export default function makeSuiteFolder(): () => void {
  process.env['SEED'] ??= String(Math.floor(Math.random() * 2 ** 31))
  const folder = mkdtempSync(join(tmpdir(), 'b24-suite-'))
  // Some tests run a process as another user.
  chmodSync(folder, 0o755)
  process.env['TMPDIR'] = folder
  return () => {
    for (const pid of orphansIn(folder)) kill(pid)
    for (const path of mountsIn(folder)) execFileSync('umount', ['--lazy', path])
    rmSync(folder, { recursive: true, force: true, maxRetries: 10 })
  }
}

/** Processes whose temporary folder this is, but those of vitest. Linux only. */
function orphansIn(folder: string): number[] {
  return listOf('/proc').flatMap((name) => {
    const isOrphan =
      /^\d+$/.test(name) &&
      textOf(`/proc/${name}/environ`).split('\0').includes(`TMPDIR=${folder}`) &&
      !textOf(`/proc/${name}/status`).includes(`\nPPid:\t${process.pid}\n`)
    return isOrphan ? [Number(name)] : []
  })
}

function mountsIn(folder: string): string[] {
  const paths = textOf('/proc/mounts')
    .split('\n')
    .map((line) => line.split(' ')[1] ?? '')
  return paths.filter((path) => path.startsWith(`${folder}/`))
}

function listOf(path: string): string[] {
  try {
    return readdirSync(path)
  } catch {
    // Not Linux.
    return []
  }
}

function textOf(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    // The process has ended, or it is not Linux.
    return ''
  }
}

function kill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL')
  } catch {
    // It has ended.
  }
}
