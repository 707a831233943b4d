import { execFileSync } from 'node:child_process'
import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { blockWith, filesOf, root } from '../support/docs.ts'
import { dealBody, startReceiver, temporaryFolder, until } from '../support/receiver.ts'

const pagesWithHandlers = ['README.md', 'docs/handlers.md'] as const
const checkout = '/srv/bitrix24-webhook-receiver'
const hook = 'http://127.0.0.1:9/rest/1/secret/'

test.for(pagesWithHandlers)('the handlers of %s load', async (page) => {
  const handlers = filesOf(page)
  const names = Object.keys(handlers).filter((name) => !name.startsWith('_'))
  expect(names).not.toEqual([])
  const receiver = await startReceiver({ handlers, env: { SALES_HOOK: hook } })
  await until(`all loaded\n${receiver.output()}`, () => receiver.logged('handler loaded').length === names.length)
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
    // The types were found, not taken for anything.
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

test('the handler that writes to Bitrix24 does it once, though its own change fires the event again', async () => {
  const deal = { TITLE: 'Garden shed' }
  const calls: string[] = []
  const portal = createServer((request, response) => {
    calls.push(request.url ?? '')
    request.setEncoding('utf8').on('data', (body: string) => {
      const { fields }: { fields?: typeof deal } = JSON.parse(body)
      Object.assign(deal, fields)
      response.setHeader('content-type', 'application/json').end(JSON.stringify({ result: fields ? true : deal }))
    })
  }).listen(0, '127.0.0.1')
  onTestFinished(() => void portal.close())
  await once(portal, 'listening')
  const { port } = portal.address() as AddressInfo

  const receiver = await startReceiver({
    handlers: filesOf('docs/handlers.md'),
    env: { SALES_HOOK: `http://127.0.0.1:${port}/rest/1/secret/` },
  })
  await receiver.post(dealBody(662))
  await until(`handled\n${receiver.output()}`, () => receiver.logged('handled').length === 1)
  await receiver.post(dealBody(662))
  await until('handled again', () => receiver.logged('handled').length === 2)
  expect(deal.TITLE).toBe('#662 Garden shed')
  expect(calls).toEqual(
    ['crm.deal.get', 'crm.deal.update', 'crm.deal.get'].map((method) => `/rest/1/secret/${method}.json`),
  )
})

test('a hook that is no URL is not in the log', async () => {
  const receiver = await startReceiver({
    handlers: filesOf('docs/handlers.md'),
    env: { SALES_HOOK: 'example.bitrix24.com/rest/1/hidden' },
  })
  await until('told', () => receiver.logged('a handler cannot be loaded').length > 0)
  expect(receiver.output()).toContain('SALES_HOOK must be a URL')
  expect(receiver.output()).not.toContain('hidden')
})
