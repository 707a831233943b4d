import type { Alert } from './alerts.ts'

/** Milliseconds until the target must have answered. */
const longestAnswer = 10_000

/**
 * Posts the alert as JSON. A redirect is not followed: it may lead anywhere.
 *
 * @throws {Error} when the answer is not 2xx or does not come; the message names the host, nothing else of the URL
 */
export async function postAlert(url: URL, alert: Alert, patience: number = longestAnswer): Promise<void> {
  const response = await fetch(url, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(alert),
    redirect: 'manual',
    signal: AbortSignal.timeout(patience),
  }).catch((error: unknown) => {
    // What fetch throws may hold the URL.
    throw new Error(`${url.host}: ${isTimeout(error) ? `no answer within ${patience} ms` : reasonOf(error)}`)
  })
  await response.body?.cancel().catch(() => undefined)
  if (!response.ok) throw new Error(`${url.host} answered with ${response.status}`)
}

function isTimeout(error: unknown): boolean {
  return error instanceof Error && error.name === 'TimeoutError'
}

/** The code of what lies below, such as ECONNREFUSED. */
function reasonOf(error: unknown): string {
  const cause = error instanceof Error ? error.cause : undefined
  return cause instanceof Error && 'code' in cause ? String(cause.code) : 'no connection'
}
