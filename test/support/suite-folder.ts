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
  const clean = (spared?: number) => {
    for (const pid of processesIn(folder, spared)) kill(pid)
    for (const path of mountsIn(folder)) execFileSync('umount', ['--lazy', path])
    rmSync(folder, { recursive: true, force: true, maxRetries: 10 })
  }
  // A run that is ended by a signal has no end of its own.
  process.once('exit', () => clean())
  return () => clean(process.pid)
}

/** The processes whose temporary folder this is, but the children of `spared`. Linux only. */
function processesIn(folder: string, spared: number | undefined): number[] {
  return listOf('/proc').flatMap((name) => {
    const isOurs =
      /^\d+$/.test(name) &&
      textOf(`/proc/${name}/environ`).split('\0').includes(`TMPDIR=${folder}`) &&
      !textOf(`/proc/${name}/status`).includes(`\nPPid:\t${spared}\n`)
    return isOurs ? [Number(name)] : []
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
