import { setTimeout as sleep } from 'node:timers/promises'
import { robotEvent } from '../events/robot.ts'
import { type Answer, post } from './post.ts'
import { documentOf, robotBody } from './robot-body.ts'
import { type WebhookEvent, webhookBody } from './webhook-body.ts'

/** Patterns of posts by Bitrix24 and by attackers: the number of events, of copies of each, and of posts at once. */
const modes = {
  /** One event. If there are several, all are about the same object. */
  single: { count: 1, copies: 1, atOnce: 1 },
  /** Like after a bulk edit: objects with consecutive ids. */
  burst: { count: 100, copies: 1, atOnce: 16 },
  /** The same event twice at the same time. */
  duplicate: { count: 1, copies: 2, atOnce: 2 },
  /** A sender that does not know the token. */
  'wrong-token': { count: 1, copies: 1, atOnce: 1 },
  /** Events of one object, a second apart, with each pair of neighbours swapped. */
  reordered: { count: 4, copies: 1, atOnce: 1 },
} as const

export type Mode = keyof typeof modes

export interface Simulation extends Omit<WebhookEvent, 'ts'> {
  readonly mode?: Mode
  /** Number of events. */
  readonly count?: number
  /** How often each event is posted, byte for byte. */
  readonly copies?: number
  /** Posts under way at once. */
  readonly atOnce?: number
  /** Events per second, evenly, whatever the outcome of the posts. Without it, the next post begins when one ends. */
  readonly rate?: number
  /** Unix seconds of the first event. The default is the time at which it is posted. */
  readonly ts?: number
}

/** As long as a real token. */
const wrongToken = 'wrong0token0wrong0token0wrong0to'

/** Yields the bodies of a simulation in the order of posting. Each is made when it is needed. */
export function* bodiesOf(simulation: Simulation): Generator<string, undefined> {
  const { mode = 'single', copies = modes[mode].copies } = simulation
  for (const body of eventsOf({ ...simulation, mode })) for (let copy = 0; copy < copies; copy++) yield body
}

function* eventsOf(simulation: Simulation & { readonly mode: Mode }): Generator<string> {
  const { mode, count = modes[mode].count, ts, ...event } = simulation
  const { id = 1, portal } = event
  const started = ts ?? unixSeconds()
  const sender = mode === 'wrong-token' ? { ...portal, token: wrongToken } : portal
  for (let number = 0; number < count; number++) {
    // The order is 1, 0, 3, 2, … The last event of an odd number has no neighbour.
    const place = Math.min(number ^ 1, count - 1)
    const one = mode === 'burst' ? following(id, number) : id
    yield event.event === robotEvent
      ? robotBody({ document: documentOf(one), portal })
      : webhookBody({
          ...event,
          portal: sender,
          id: one,
          ts: mode === 'reordered' ? started + place : (ts ?? unixSeconds()),
        })
  }
}

function unixSeconds(): number {
  return Math.floor(Date.now() / 1000)
}

/** Not every id is a number: a currency has `CHE`, a call `a.b`, a robot's document `DEAL_662`. */
function following(id: string | number, number: number): string | number {
  if (Number.isInteger(Number(id))) return Number(id) + number
  const [, start = '', last] = /^(\w+_)(\d+)$/.exec(String(id)) ?? []
  return last === undefined ? `${id}${number}` : `${start}${Number(last) + number}`
}

/** The answer to a post. Without an answer the status is 0, and `error` says why. */
export interface Outcome extends Answer {
  readonly error?: unknown
  /** Milliseconds since the post was due, not since it was sent: a wait for a slow receiver counts. */
  readonly ms: number
}

export interface Watch {
  /** Called with each outcome as it arrives. */
  readonly onOutcome?: (outcome: Outcome) => void
  /** On abort no more posts are sent. Posts that are under way are awaited. */
  readonly signal?: AbortSignal
}

/** Posts at once if a rate is given. The limit is high enough for a receiver to catch up after a short pause. */
const maxAtOnce = 256

/** Milliseconds after which a post without an answer fails. */
const answerTimeoutMs = 30_000

/** Posts a simulation. Returns the outcome of each post, in the order of `bodiesOf`. */
export async function simulate(url: string, simulation: Simulation, watch: Watch = {}): Promise<Outcome[]> {
  const { mode = 'single', rate, copies = modes[mode].copies } = simulation
  const { atOnce = rate === undefined ? modes[mode].atOnce : maxAtOnce } = simulation
  const { signal, onOutcome = () => undefined } = watch
  const outcomes: Outcome[] = []
  const underWay = new Set<Promise<void>>()
  const bodies = bodiesOf(simulation)
  const started = performance.now()

  async function postOne(body: string, due: number): Promise<Outcome> {
    const answer = await post(url, body, {}, AbortSignal.timeout(answerTimeoutMs)).catch((error: unknown) => ({
      status: 0,
      body: '',
      error,
    }))
    return { ...answer, ms: performance.now() - due }
  }

  for (let index = 0; ; index++) {
    const due = rate === undefined ? 0 : started + (Math.floor(index / copies) * 1000) / rate
    const wait = due - performance.now()
    // An abort ends the wait and then the loop.
    if (wait > 1) await sleep(wait, undefined, signal ? { signal } : {}).catch(() => undefined)
    while (underWay.size >= atOnce) await Promise.race(underWay)
    const next = signal?.aborted ? { done: true as const } : bodies.next()
    if (next.done) break
    const posting = postOne(next.value, due || performance.now()).then((outcome) => {
      outcomes[index] = outcome
      underWay.delete(posting)
      onOutcome(outcome)
    })
    underWay.add(posting)
  }
  await Promise.all(underWay)
  return outcomes
}
