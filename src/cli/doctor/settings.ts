import { tokensWithoutIncomingWebhook } from '../../bitrix24/incoming-webhook.ts'
import { ConfigError, readConfig } from '../../config/config.ts'
import { unknownSettings } from '../../config/names.ts'
import { weakTokens } from '../../config/values.ts'
import { type Check, fail, ok, warn } from './check.ts'

const name = 'settings'

/** Reports every problem that the start of the receiver would report. */
export async function checkSettings(): Promise<readonly Check[]> {
  try {
    const { tokens, incomingWebhooks } = readConfig(process.env)
    const list = (all: readonly { readonly name: string | undefined }[]) =>
      all.map((one) => one.name ?? 'unnamed').join(', ') || 'none'
    const lacking = 'name its URL like the token; until then events wait whose handlers call Bitrix24'
    return [
      ok(name, `tokens: ${list(tokens)}; incoming webhooks: ${list(incomingWebhooks)}`),
      ...tokensWithoutIncomingWebhook(incomingWebhooks, tokens).map((token) =>
        warn(name, `B24_HOOK has no URL for the events of ${token}`, lacking),
      ),
      ...[...unknownSettings(process.env), ...weakTokens(tokens)].map((text) => warn(name, text)),
    ]
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error
    const advice = 'set it in the environment or in .env; .env.example explains each'
    return error.problems.map((problem) => fail(name, problem.replace(/\s+/g, ' '), advice))
  }
}
