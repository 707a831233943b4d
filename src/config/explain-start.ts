import { dirname } from 'node:path'
import { printableLines } from '../lib/printable.ts'
import { StartError } from '../lib/start-error.ts'
import { ConfigError } from './config.ts'

const SQLITE_FULL = 13

/** sysexits.h: EX_CONFIG. */
const EX_CONFIG = 78

/** Returns the text for stderr when a start failed, and the exit code. Only an unexpected error gets a stack. */
function explainStart(error: unknown): { text: string; exitCode: number } {
  if (error instanceof ConfigError) return { text: error.message, exitCode: EX_CONFIG }
  return { text: explain(error), exitCode: 1 }
}

/** Ends a process that cannot start. */
export function exitAtStart(error: unknown): never {
  const { text, exitCode } = explainStart(error)
  process.stderr.write(`${printableLines(text)}\n`)
  process.exit(exitCode)
}

function explain(error: unknown): string {
  if (error instanceof StartError) return error.message
  if (!(error instanceof Error)) return String(error)
  const { code, path, address, hostname, port } = error as {
    code?: string
    path?: string
    address?: string
    hostname?: string
    port?: number
  }
  if (code === 'EADDRINUSE')
    return `Port ${port} on ${address} is taken by another process: stop it, or set PORT (or ADMIN_PORT)`
  if (code === 'ENOSPC' || ('errcode' in error && error.errcode === SQLITE_FULL))
    return 'The disk of DATA_DIR is full: nothing can be journalled, so nothing is accepted. Make room, and start again'
  if (code === 'EADDRNOTAVAIL')
    return `HOST (or ADMIN_HOST) ${address} is not an address of this machine: 0.0.0.0 listens on all of them`
  if (code === 'ENOTFOUND' || code === 'EAI_AGAIN')
    return `HOST (or ADMIN_HOST) ${hostname} is not an address, and no name server knows such a name: 0.0.0.0 listens on all addresses`
  if (code === 'EACCES' && port !== undefined)
    return `User ${process.getuid?.()} may not listen on port ${port}: set PORT=8080 and put a proxy in front`
  // For example a segment that an earlier run created as another user.
  if (code === 'EACCES' && path !== undefined)
    return `User ${process.getuid?.()} may not read ${path}. Run: chown -R ${process.getuid?.()} ${dirname(path)}`
  return error.stack ?? error.message
}
