import { expect, test } from 'vitest'
import { deals, dispatcherOf, linesOf, scripted } from '../support/dispatcher.ts'
import { createRandom } from '../support/random.ts'
import { dealBody, startReceiver, temporaryFolder, until } from '../support/receiver.ts'

/** `npm run test:crash` sets 25; the suite runs a short form. */
const rounds = Number(process.env['ROUNDS'] ?? 2)

test('each object is handled in order, one event at a time, however often the dispatcher is replaced', async () => {
  const random = createRandom()
  const folder = temporaryFolder('talk')
  const receiver = await startReceiver({
    handlers: {
      [deals]: scripted(
        folder,
        `mark('runs', ['start', process.pid, event.object, event.id].join(' '))
  await sleep(Math.random() * 15)
  if (Math.random() < 0.01) throw new Error('now and then')
  mark('runs', ['end', process.pid, event.object, event.id].join(' '))`,
      ),
    },
  })
  let isLoading = true
  let posted = 0
  const client = async () => {
    for (; isLoading; posted++) expect((await receiver.post(dealBody(1 + (posted % 12)))).status).toBe(200)
  }
  const clients = [client(), client()]
  for (let round = 0; round < rounds; round++) {
    const pid = await dispatcherOf(receiver)
    const enough = posted + 30 + random(200)
    await until('it is under load', () => posted >= enough)
    if (round % 2) receiver.child.kill('SIGHUP')
    else process.kill(pid, 'SIGKILL')
    await until('another', async () => (await dispatcherOf(receiver)) !== pid)
  }
  isLoading = false
  await Promise.all(clients)
  const journal = await receiver.journal()
  const ended = () =>
    new Set(linesOf(folder, 'runs').flatMap((line) => (line.startsWith('end') ? [line.split(' ')[3]] : [])))
  await until('all are handled', () => ended().size === journal.length)

  const next = new Map<string, string[]>()
  for (const { object = '', id } of journal) next.set(object, [...(next.get(object) ?? []), id])
  const running = new Map<string, { pid: string; id: string }>()
  const mistakes: string[] = []
  let again = 0
  for (const line of linesOf(folder, 'runs')) {
    const [what = '', pid = '', object = '', id = ''] = line.split(' ')
    const before = running.get(object)
    if (what === 'start') {
      // The one before failed, or its process is gone, where it did not end; then the same event runs again.
      if (before && before.id !== id) mistakes.push(`${line}, while ${before.id} had not ended`)
      if (next.get(object)?.[0] !== id) {
        // It had ended, but its process was killed before it could say so.
        if (next.get(object)?.includes(id)) mistakes.push(`${line}, out of order`)
        again++
      }
      running.set(object, { pid, id })
    } else {
      if (before?.pid !== pid || before.id !== id) mistakes.push(`${line}, which did not run`)
      running.delete(object)
      if (next.get(object)?.[0] === id) next.get(object)?.shift()
    }
  }
  // What `npm run test:crash` is run for: the figures.
  process.stdout.write(
    `order: ${journal.length} events of 12 objects over ${rounds} kills and reloads, ${mistakes.length} out of order or beside another, ${again} handled twice\n`,
  )
  expect(mistakes).toEqual([])
  expect(journal.length).toBeGreaterThan(20 * rounds)
})
