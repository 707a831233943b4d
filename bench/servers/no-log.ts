import { timingSafeEqual } from 'node:crypto'
import formbody from '@fastify/formbody'
import Fastify from 'fastify'
import qs from 'qs'

/** Our intake with everything of ours left out: the same framework, decoder and token check, and no log at all. */
const token = Buffer.from(process.env['B24_APPLICATION_TOKEN'] ?? '')
const app = Fastify({ logger: false })
app.removeAllContentTypeParsers()
app.register(formbody, {
  parser: (text) =>
    qs.parse(text, {
      depth: 64,
      strictDepth: true,
      parameterLimit: 10_000,
      arrayLimit: 10_000,
      throwOnLimitExceeded: true,
      parseArrays: false,
      plainObjects: true,
      duplicates: 'last',
    }),
})
app.post<{ Body: { auth?: { application_token?: unknown } } | undefined }>('/', async (request, reply) => {
  const came = Buffer.from(String(request.body?.auth?.application_token))
  if (came.length === token.length && timingSafeEqual(came, token)) return { status: 'ok', message: 'event accepted' }
  return reply.code(403).send({ status: 'error', error: 'invalid_application_token' })
})
await app.listen({ port: Number(process.env['PORT']), host: '127.0.0.1', backlog: 4096 })
