import { readPublicUrl } from '../../config/config.ts'
import { printable } from '../../lib/printable.ts'
import { defineCommand } from '../command.ts'
import { type Check, type Look, runCheck, skipped } from '../doctor/check.ts'
import { checkFolder, checkQueue, checkSync } from '../doctor/data.ts'
import { checkHandlers } from '../doctor/handlers.ts'
import { checkIncomingWebhooks } from '../doctor/incoming-webhooks.ts'
import { checkPublicUrl } from '../doctor/public-url.ts'
import { checkReceiver } from '../doctor/receiver.ts'
import { checkSettings } from '../doctor/settings.ts'
import { exitCodes } from '../exit-codes.ts'

/** Checks whether everything that a receiver needs is there, and says what to do if it is not. */
export const doctor = defineCommand({
  name: 'doctor',
  usage: '',
  summary: 'looks whether everything is there that a receiver needs, and says what to do',
  notes: [
    'The settings, the data folder and its disk, the queue, the receiver, the handlers, the incoming webhooks, the clock, and whether',
    'Bitrix24 would take the public address: seen from here, which need not be how Bitrix24 sees it. It loads the handlers in',
    'a process of its own, runs none, and changes nothing. Exits with 1 when any check is FAIL.',
  ],
  options: {
    url: {
      type: 'string',
      value: 'URL',
      description: 'the public address; without it https://DOMAIN and WEBHOOK_PATH',
    },
  },
  examples: [
    'doctor',
    'doctor --url https://hooks.example.com/bitrix24',
    'doctor --json | jq \'select(.state == "FAIL")\'',
  ],
  args: 0,
  async run({ options, print }) {
    const checks: readonly (readonly [string, Look])[] = [
      ['settings', checkSettings],
      ['folder', checkFolder],
      ['fsync', () => checkSync((text) => print.progress(text))],
      ['queue', checkQueue],
      ['receiver', checkReceiver],
      ['handlers', checkHandlers],
      ['incoming_webhook', checkIncomingWebhooks],
      ['url', () => checkAddress(options.url)],
    ]
    let hasFailed = false
    for (const [name, look] of checks) {
      print.progress(`looking at: ${name}`)
      for (const check of await runCheck(name, look)) {
        hasFailed ||= check.state === 'FAIL'
        await print.result(check, lineOf(check))
      }
    }
    return hasFailed ? exitCodes.failed : exitCodes.done
  },
})

async function checkAddress(given: string | undefined): Promise<readonly Check[]> {
  const url = given ?? readPublicUrl(process.env)
  if (url !== undefined) return checkPublicUrl(url)
  return [skipped('url', 'the public address is not known', 'name it: --url https://hooks.example.com/bitrix24')]
}

function lineOf({ name, state, text, advice }: Check): string {
  const line = `${state.padEnd(7)}  ${name.padEnd(11)}  ${printable(text)}`
  return advice === undefined ? line : `${line}\n${' '.repeat(22)}${printable(advice)}`
}
