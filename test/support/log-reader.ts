import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { onTestFinished } from 'vitest'

/** A program that reads the journal, and the ids of the events that it prints; it ends with the test. */
export function startReader(command: string, ...args: readonly string[]) {
  const child = spawn(command, args)
  onTestFinished(() => void child.kill('SIGKILL'))
  const ids: number[] = []
  let rest = ''
  let said = ''
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    const lines = (rest + text).split('\n')
    rest = lines.pop() ?? ''
    ids.push(...idsOf(lines))
  })
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    said += text
  })
  const ended = once(child, 'close')
  return {
    ids,
    said: () => said,
    stop() {
      child.kill('SIGTERM')
      return ended
    },
  }
}

/** A line that is not whole fails the test. */
export function idsOf(lines: readonly string[]): number[] {
  return lines.map((line) => Number(JSON.parse(line).id))
}
