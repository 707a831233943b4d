import { execFileSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { blockWith, filesOf, root } from '../support/docs.ts'
import { startPortal } from '../support/portal.ts'
import { startReceiver, TOKEN, temporaryFolder, until } from '../support/receiver.ts'

const pagesWithHandlers = ['README.md', 'docs/handlers.md'] as const
const checkout = '/srv/bitrix24-webhook-receiver'
const DEAL = 2
/** What the shown handlers read from the environment; nothing listens there. */
const env = { OLD_PHP_URL: 'http://127.0.0.1:9/hook.php' }

test.for(pagesWithHandlers)('the handlers of %s load', async (page) => {
  const handlers = filesOf(page)
  const names = Object.keys(handlers).filter((name) => !name.startsWith('_'))
  expect(names).not.toEqual([])
  const receiver = await startReceiver({ handlers, env })
  await until(
    () => `all loaded\n${receiver.output()}`,
    () => receiver.logged('handler loaded').length === names.length,
  )
})

test.for(pagesWithHandlers)(
  'the handlers of %s have the types that an editor finds by the tsconfig.json shown',
  (page) => {
    const folder = temporaryFolder('typed')
    const config = blockWith('docs/handlers.md', '"compilerOptions"')
    expect(config).toContain(checkout)
    writeFileSync(join(folder, 'tsconfig.json'), config.replaceAll(checkout, root))
    for (const [name, source] of Object.entries(filesOf(page))) writeFileSync(join(folder, name), source)
    expect(typeErrors(folder)).toBe('')
    // The types were found: a wrong use is an error.
    writeFileSync(
      join(folder, 'wrong.ts'),
      `import type { Event } from 'bitrix24-webhook-receiver'\nexport const wrong = (event: Event): number => event.id\n`,
    )
    expect(typeErrors(folder)).toContain(
      "wrong.ts(2,48): error TS2322: Type 'string' is not assignable to type 'number'.",
    )
  },
)

function typeErrors(folder: string): string {
  try {
    return execFileSync(join(root, 'node_modules/.bin/tsc'), ['-p', folder], { encoding: 'utf8' })
  } catch (error) {
    return (error as { stdout: string }).stdout
  }
}

test('the handler that writes to Bitrix24 does so once, although its own change fires the event again', async () => {
  const portal = await startPortal()
  portal.records.add(DEAL, { title: 'Garden shed' }, 7, 662)
  const receiver = await startReceiver({
    handlers: filesOf('docs/handlers.md'),
    env: { ...env, ...portal.env, B24_HOOK: portal.incomingWebhook() },
  })
  portal.subscribe({ url: receiver.url, token: TOKEN, events: ['ONCRMDEALUPDATE'] })
  portal.edit(DEAL, 662, { title: 'Garden house' })
  const titled = () => receiver.logged('handled').filter((line) => line['handler'] === 'deal-titles')
  await until(
    () => `handled, and its own change too\n${receiver.output()}`,
    () => titled().length === 2,
  )
  await portal.eventsAnswered()
  expect(portal.records.get(DEAL, 662)?.fields).toMatchObject({ title: '#662 Garden house' })
  expect(portal.called()).toEqual(['crm.deal.get', 'crm.deal.update', 'crm.deal.get'])
})
