import { codeOf } from '../lib/error-code.ts'
import { causeOf } from '../lib/error-text.ts'
import type { Alert } from './alerts.ts'

/** Milliseconds within which the target must answer. */
const defaultTimeoutMs = 10_000

/**
 * Posts the alert as JSON. It does not follow redirects, because they may lead anywhere.
 *
 * @throws {Error} when there is no answer or it is not 2xx; the message contains the URL's host and nothing else of the URL
 */
export async function postAlert(url: URL, alert: Alert, timeoutMs: number = defaultTimeoutMs): Promise<void> {
  const signal = AbortSignal.timeout(timeoutMs)
  const response = await fetch(url, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(alert),
    redirect: 'manual',
    signal,
  }).catch((error: unknown) => {
    // An error of fetch may contain the URL, which is a secret.
    throw new Error(
      `${url.host}: ${signal.aborted ? `no answer within ${timeoutMs} ms` : (codeOf(causeOf(error)) ?? 'no connection')}`,
    )
  })
  await response.body?.cancel().catch(() => undefined)
  if (!response.ok) throw new Error(`${url.host} answered with ${response.status}`)
}
