import { once } from 'node:events'
import { createServer } from 'node:http'
import express from 'express'

/** The common recipe: 200 before anything else, and then the work. A restart forgets what was answered. */
const app = express()
app.use(express.urlencoded({ extended: true }))
app.post('/', (request, response) => {
  response.status(200).send('OK')
  const { event, auth } = request.body as { event?: string; auth?: { application_token?: string } }
  if (auth?.application_token !== process.env['B24_APPLICATION_TOKEN'] || event === undefined) return
  setImmediate(() => undefined)
})
const server = createServer(app).listen({ port: Number(process.env['PORT']), host: '127.0.0.1', backlog: 4096 })
await once(server, 'listening')
