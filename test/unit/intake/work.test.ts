import qs from 'qs'
import { expect, test, vi } from 'vitest'
import { goodBody, heldToken, post, startServer } from '../../support/intake.ts'

// The real one, but it counts.
vi.mock('qs', { spy: true })

const refused = (code: string, status: number) => ({ status, body: JSON.stringify({ status: 'error', error: code }) })
const wrongToken = heldToken.replace('1', '9')
const nested = Array.from({ length: 200 }, (_, index) => `q${index}${'[]'.repeat(60)}=1`).join('&')
const secret = '0123456789abcdef0123456789abcdef'

test('qs decodes no body that holds no token of ours', async () => {
  await using server = await startServer()
  const bodies = [
    'event=E',
    goodBody.replace(heldToken, wrongToken),
    `${goodBody}&auth[application_token]=${heldToken}`,
    nested,
    `${nested}&auth[application_token]=${wrongToken}`,
    // It is read as the token only once the form is decoded; http_build_query writes nothing like it.
    `event=E&[auth][application_token]=${heldToken}`,
  ]
  vi.mocked(qs.parse).mockClear()
  for (const body of bodies)
    expect(await post(server.port, body)).toMatchObject(refused('invalid_application_token', 403))
  expect(qs.parse).not.toHaveBeenCalled()
  expect((await post(server.port, goodBody)).status).toBe(200)
  expect(qs.parse).toHaveBeenCalledTimes(1)
})

test('the query of such a post is not decoded either', async () => {
  await using server = await startServer()
  vi.mocked(qs.parse).mockClear()
  const target = `/bitrix24?a${'[b]'.repeat(70)}=1`
  expect((await post(server.port, goodBody.replace(heldToken, wrongToken), { target })).status).toBe(403)
  expect(qs.parse).not.toHaveBeenCalled()
})

test('a form with a token, or on the path of robots, that asks too much is refused before qs', async () => {
  await using server = await startServer({ robotPath: `/robot/${secret}` })
  vi.mocked(qs.parse).mockClear()
  const target = `/robot/${secret}`
  expect(await post(server.port, `${nested}&${goodBody}`)).toMatchObject(refused('malformed_form', 400))
  expect(await post(server.port, nested, { target })).toMatchObject(refused('malformed_form', 400))
  expect(qs.parse).not.toHaveBeenCalled()
  expect(server.lines).toMatchObject([
    { code: 'malformed_form', reason: 'more than 10000 brackets in names' },
    { code: 'malformed_form', reason: 'more than 10000 brackets in names' },
  ])
  // A query is limited like a body.
  const query = `?${'k'.repeat(2_001)}=1`
  expect(await post(server.port, goodBody, { target: `/bitrix24${query}` })).toMatchObject(
    refused('malformed_form', 400),
  )
  expect(server.lines.at(-1)).toMatchObject({ reason: 'a name longer than 2000 characters' })
})

test('a form that the raw bytes vouch for and the decoder does not is refused', async () => {
  await using server = await startServer()
  const doubled = `${goodBody}&[auth][application_token]=${heldToken}`
  expect(await post(server.port, doubled)).toMatchObject(refused('invalid_application_token', 403))
  expect(await post(server.port, `${goodBody}&auth=x`)).toMatchObject(refused('malformed_form', 400))
  expect(server.events).toEqual([])
})
