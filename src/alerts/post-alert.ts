import type { Alert } from './alerts.ts'

/** Milliseconds within which the target must answer. */
const longestAnswer = 10_000

/**
 * Posts the alert as JSON. It does not follow redirects, because they may lead anywhere.
 *
 * @throws {Error} when there is no answer or it is not 2xx; the message contains the URL's host and nothing else of the URL
 */
export async function postAlert(url: URL, alert: Alert, patience: number = longestAnswer): Promise<void> {
  const response = await fetch(url, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(alert),
    redirect: 'manual',
    signal: AbortSignal.timeout(patience),
  }).catch((error: unknown) => {
    // An error of fetch may contain the URL, which is a secret.
    throw new Error(`${url.host}: ${isTimeout(error) ? `no answer within ${patience} ms` : reasonOf(error)}`)
  })
  await response.body?.cancel().catch(() => undefined)
  if (!response.ok) throw new Error(`${url.host} answered with ${response.status}`)
}

function isTimeout(error: unknown): boolean {
  return error instanceof Error && error.name === 'TimeoutError'
}

/** Returns the code of the underlying error, such as ECONNREFUSED. */
function reasonOf(error: unknown): string {
  const cause = error instanceof Error ? error.cause : undefined
  return cause instanceof Error && 'code' in cause ? String(cause.code) : 'no connection'
}
