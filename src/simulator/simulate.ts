import { type Answer, post } from './post.ts'
import { type WebhookEvent, webhookBody } from './webhook-body.ts'

/** What Bitrix24 and strangers do to a receiver, and how each is posted: so many posts, so many of them at once. */
const modes = {
  /** One event. */
  single: { count: 1, atOnce: 1 },
  /** As after a bulk edit: objects of consecutive ids within one second. */
  burst: { count: 100, atOnce: 16 },
  /** One event twice, at the same time. */
  duplicate: { count: 2, atOnce: 2 },
  /** A stranger, who does not know the token. */
  'wrong-token': { count: 1, atOnce: 1 },
  /** Events of one object, a second apart, of which neighbours have changed places on the way. */
  reordered: { count: 4, atOnce: 1 },
} as const

export type Mode = keyof typeof modes

export interface Simulation extends Omit<WebhookEvent, 'ts'> {
  readonly mode?: Mode
  /** Posts; of a duplicate, how often it comes. */
  readonly count?: number
  /** Posts that are on their way at once. */
  readonly atOnce?: number
  /** Unix seconds of the first event. */
  readonly ts?: number
}

/** Of the length of a real one. */
const wrongToken = 'wrong0token0wrong0token0wrong0to'

/** The bodies of a simulation, in the order in which they are posted. */
export function bodiesOf(simulation: Simulation): string[] {
  const { mode = 'single', count = modes[mode].count, ts = Math.floor(Date.now() / 1000), ...event } = simulation
  const { id = 1, portal } = event
  const numbers = Array.from({ length: count }, (_, index) => index)
  switch (mode) {
    case 'burst':
      return numbers.map((number) => webhookBody({ ...event, id: following(id, number), ts }))
    case 'wrong-token':
      return numbers.map(() => webhookBody({ ...event, portal: { ...portal, token: wrongToken }, ts }))
    case 'reordered': {
      const bodies = numbers.map((number) => webhookBody({ ...event, ts: ts + number }))
      for (let at = 1; at < bodies.length; at += 2) bodies.splice(at - 1, 2, ...bodies.slice(at - 1, at + 1).reverse())
      return bodies
    }
    case 'single':
    case 'duplicate':
      return numbers.map(() => webhookBody({ ...event, ts }))
  }
}

/** Not every id is a number: a currency's is `CHE`, a call's `a.b`. */
function following(id: string | number, number: number): string | number {
  return Number.isInteger(Number(id)) ? Number(id) + number : `${id}${number}`
}

/** An answer; without one its status is 0, and `error` says why. */
export interface Outcome extends Answer {
  readonly error?: unknown
}

/** Posts a simulation. What came of each post, in the order of `bodiesOf`. */
export async function simulate(url: string, simulation: Simulation): Promise<Outcome[]> {
  const { mode = 'single', atOnce = modes[mode].atOnce } = simulation
  const outcomes: Outcome[] = []
  const waiting = bodiesOf(simulation).entries()
  const client = async () => {
    for (const [index, body] of waiting)
      outcomes[index] = await post(url, body).catch((error: unknown) => ({ status: 0, body: '', error }))
  }
  await Promise.all(Array.from({ length: atOnce }, client))
  return outcomes
}
