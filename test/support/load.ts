import { dealBody, post } from './receiver.ts'

/** Posts deals of different numbers, each on a connection of its own, from so many clients at once, and keeps the answers. */
export function startLoad(url: string, { clients = 16, from = 1 } = {}) {
  /** By object; 0 where the connection broke before the answer. */
  const answers = new Map<string, number>()
  const bodies = new Set<string>()
  let isLoading = true
  let id = from
  const client = async () => {
    while (isLoading) {
      const deal = id++
      const answer = await post(url, dealBody(deal)).catch(() => ({ status: 0, body: '' }))
      answers.set(`deal:${deal}`, answer.status)
      bodies.add(answer.body)
    }
  }
  const running = Array.from({ length: clients }, client)
  const answered = (status: number) => [...answers].filter(([, got]) => got === status).map(([object]) => object)
  return {
    answers,
    acknowledged: () => answered(200),
    refused: () => answered(503),
    /** Every status and every body that came. */
    statuses: () => new Set(answers.values()),
    bodies,
    total: () => answers.size,
    /** Resolves when every post that was begun has its answer. */
    async stop() {
      isLoading = false
      await Promise.all(running)
    },
  }
}

/** So many posts, from so many clients at once. */
export async function postMany(url: string, count: number, { clients = 32, from = 1 } = {}): Promise<number[]> {
  const statuses: number[] = []
  let next = from
  const client = async () => {
    for (let deal = next++; deal < from + count; deal = next++)
      statuses.push((await post(url, dealBody(deal)).catch(() => ({ status: 0 }))).status)
  }
  await Promise.all(Array.from({ length: clients }, client))
  return statuses
}

/** What is not exactly once in `found`, of what must be. */
export function lostOrDoubled(expected: Iterable<string>, found: readonly (string | undefined)[]) {
  const times = new Map<string | undefined, number>()
  for (const object of found) times.set(object, (times.get(object) ?? 0) + 1)
  const all = [...expected]
  return {
    lost: all.filter((object) => !times.has(object)),
    doubled: all.filter((object) => (times.get(object) ?? 0) > 1),
  }
}
