import { ConfigError, readConfig } from '../../config.ts'
import { weakTokens } from '../../config-values.ts'
import type { Check } from './check.ts'

const name = 'settings'

/** Every problem, as the start of the receiver tells them. */
export async function checkSettings(): Promise<readonly Check[]> {
  try {
    const { tokens, hooks } = readConfig(process.env)
    const named = (one: { readonly name: string | undefined }) => one.name ?? 'unnamed'
    const list = (all: readonly { readonly name: string | undefined }[]) => all.map(named).join(', ') || 'none'
    return [
      { name, state: 'ok', text: `tokens: ${list(tokens)}; hooks: ${list(hooks)}` },
      ...weakTokens(tokens).map((text): Check => ({ name, state: 'warn', text })),
    ]
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error
    const advice = 'set it in the environment or in .env; .env.example explains each'
    return error.problems.map((problem) => ({ name, state: 'FAIL', text: problem.replace(/\s+/g, ' '), advice }))
  }
}
