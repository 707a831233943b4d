import { spawn } from 'node:child_process'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import type { Logger } from 'pino'
import { isErasurePending } from '../journal/erasure.ts'

/**
 * Finishes an erasure that was interrupted. It runs in its own process: it may read the whole journal, and posts must not
 * wait for it. If it fails, the next start tries again.
 */
export async function finishErasure(dataDir: string, log: Logger): Promise<void> {
  if (!isErasurePending(dataDir)) return
  try {
    const script = fileURLToPath(new URL('../bin/cli.ts', import.meta.url))
    const child = spawn(process.execPath, ['--disable-warning=ExperimentalWarning', script, 'erase'], {
      env: { ...process.env, DATA_DIR: dataDir },
      stdio: ['ignore', 'ignore', 'pipe'],
    })
    const ended = new Promise<number | null>((resolve, reject) => child.once('error', reject).once('close', resolve))
    const [code, reason] = await Promise.all([ended, text(child.stderr)])
    if (code === 0) log.info('an erasure that was cut off is finished')
    else log.error({ code, reason: reason.trim() }, 'an erasure that was cut off is not finished')
  } catch (error) {
    log.error({ err: error }, 'an erasure that was cut off is not finished')
  }
}
