import { execFileSync } from 'node:child_process'
import { closeSync, constants, openSync, readSync } from 'node:fs'
import { join } from 'node:path'
import { onTestFinished } from 'vitest'
import { temporaryFolder } from './receiver.ts'

/** A pipe with a name, which holds 64 KB and which is not read before `read()` is called. */
export function openPipe() {
  const path = join(temporaryFolder('pipe'), 'pipe')
  execFileSync('mkfifo', [path])
  const reader = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK)
  let isOpen = true
  const closeReader = () => {
    if (isOpen) closeSync(reader)
    isOpen = false
  }
  onTestFinished(closeReader)
  let text = ''
  return {
    path,
    /** Everything that has come so far. */
    read: (): string => {
      const chunk = Buffer.alloc(256 * 1024)
      try {
        for (let bytes = 1; bytes > 0; ) {
          bytes = readSync(reader, chunk)
          text += chunk.subarray(0, bytes).toString('latin1')
        }
      } catch (error) {
        if (Reflect.get(Object(error), 'code') !== 'EAGAIN') throw error
      }
      return text
    },
    /** Another end to write to. */
    openWriter: (flags = 0): number => {
      const writer = openSync(path, constants.O_WRONLY | flags)
      onTestFinished(() => closeSync(writer))
      return writer
    },
    closeReader,
  }
}
