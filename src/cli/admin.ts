import { readSettings } from '../config/config.ts'
import { codeOf } from '../lib/error-code.ts'
import { causeOf } from '../lib/error-text.ts'

/** Milliseconds that an answer may take: imported events wait for the disk. */
const answerTimeoutMs = 15_000

/**
 * Sends a request to the private listener of the running receiver.
 *
 * @throws {Error} if there is no answer at ADMIN_HOST and ADMIN_PORT
 */
export async function askAdmin(path: string, request: RequestInit = {}): Promise<{ status: number; body: unknown }> {
  const { adminHost: host, adminPort: port } = readSettings(process.env, 'adminHost', 'adminPort')
  const at = `http://${toUrlHost(host)}:${port}`
  try {
    const answer = await fetch(`${at}${path}`, {
      ...request,
      redirect: 'error',
      signal: AbortSignal.timeout(answerTimeoutMs),
    })
    return { status: answer.status, body: await answer.json() }
  } catch (error) {
    const cause = causeOf(error) ?? error
    const why = codeOf(cause) ?? String(cause)
    throw new Error(`${at} does not answer (${why}): are ADMIN_HOST and ADMIN_PORT those of the receiver?`, { cause })
  }
}

/** An address to listen on is not always one to call. */
export function toUrlHost(host: string): string {
  if (host === '0.0.0.0') return '127.0.0.1'
  if (host === '::') return '[::1]'
  return host.includes(':') ? `[${host}]` : host
}
