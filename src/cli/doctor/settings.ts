import { tokensWithoutIncomingWebhook } from '../../bitrix24/incoming-webhook.ts'
import { ConfigError, readConfig } from '../../config/config.ts'
import { unknownSettings } from '../../config/names.ts'
import { weakTokens } from '../../config/values.ts'
import type { Check } from './check.ts'

const name = 'settings'

/** Reports every problem that the start of the receiver would report. */
export async function checkSettings(): Promise<readonly Check[]> {
  try {
    const { tokens, incomingWebhooks } = readConfig(process.env)
    const named = (one: { readonly name: string | undefined }) => one.name ?? 'unnamed'
    const list = (all: readonly { readonly name: string | undefined }[]) => all.map(named).join(', ') || 'none'
    const lacking = tokensWithoutIncomingWebhook(incomingWebhooks, tokens).map((token): Check => {
      const advice = 'name its URL like the token; until then events wait whose handlers call Bitrix24'
      return { name, state: 'warn', text: `B24_HOOK has no URL for the events of ${token}`, advice }
    })
    return [
      { name, state: 'ok', text: `tokens: ${list(tokens)}; incoming webhooks: ${list(incomingWebhooks)}` },
      ...lacking,
      ...[...unknownSettings(process.env), ...weakTokens(tokens)].map((text): Check => ({ name, state: 'warn', text })),
    ]
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error
    const advice = 'set it in the environment or in .env; .env.example explains each'
    return error.problems.map((problem) => ({ name, state: 'FAIL', text: problem.replace(/\s+/g, ' '), advice }))
  }
}
