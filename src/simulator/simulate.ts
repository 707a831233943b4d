import { setTimeout as sleep } from 'node:timers/promises'
import { robotEvent } from '../events/robot.ts'
import { type Answer, post } from './post.ts'
import { documentOf, robotBody } from './robot-body.ts'
import { type WebhookEvent, webhookBody } from './webhook-body.ts'

/** What Bitrix24 and strangers do to a receiver: so many events, so often each, so many of the posts at once. */
const modes = {
  /** One event; of several each is about the same object. */
  single: { count: 1, copies: 1, atOnce: 1 },
  /** As after a bulk edit: objects of consecutive ids. */
  burst: { count: 100, copies: 1, atOnce: 16 },
  /** One event twice, at the same time. */
  duplicate: { count: 1, copies: 2, atOnce: 2 },
  /** A stranger, who does not know the token. */
  'wrong-token': { count: 1, copies: 1, atOnce: 1 },
  /** Events of one object, a second apart, of which neighbours have changed places on the way. */
  reordered: { count: 4, copies: 1, atOnce: 1 },
} as const

export type Mode = keyof typeof modes

export interface Simulation extends Omit<WebhookEvent, 'ts'> {
  readonly mode?: Mode
  /** Events. */
  readonly count?: number
  /** How often each comes, byte for byte. */
  readonly copies?: number
  /** Posts that are on their way at once. */
  readonly atOnce?: number
  /** Events a second, evenly, whatever becomes of the posts; without it the next begins when one ends. */
  readonly rate?: number
  /** Unix seconds of the first event; when it is posted where none is given. */
  readonly ts?: number
}

/** Of the length of a real one. */
const wrongToken = 'wrong0token0wrong0token0wrong0to'

/** The bodies of a simulation, in the order in which they are posted, each made when it is asked for. */
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
    // 1, 0, 3, 2; the last of an odd number has no neighbour.
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

/** Not every id is a number: a currency's is `CHE`, a call's `a.b`, a robot's document's `DEAL_662`. */
function following(id: string | number, number: number): string | number {
  if (Number.isInteger(Number(id))) return Number(id) + number
  const [, start = '', last] = /^(\w+_)(\d+)$/.exec(String(id)) ?? []
  return last === undefined ? `${id}${number}` : `${start}${Number(last) + number}`
}

/** An answer; without one its status is 0, and `error` says why. */
export interface Outcome extends Answer {
  readonly error?: unknown
  /** Milliseconds from when the post was due: one that had to wait for a receiver that is behind has waited for it. */
  readonly ms: number
}

export interface Watch {
  /** Called with each outcome, as they come. */
  readonly onOutcome?: (outcome: Outcome) => void
  /** Nothing more is posted when it aborts; what is on its way is waited for. */
  readonly signal?: AbortSignal
}

/** Posts at once where their rate is given: so much lets a receiver that pauses for a moment catch up. */
const mostAtOnce = 256

/** Milliseconds after which an answer is not waited for any more. */
const patience = 30_000

/** Posts a simulation. What came of each post, in the order of `bodiesOf`. */
export async function simulate(url: string, simulation: Simulation, watch: Watch = {}): Promise<Outcome[]> {
  const { mode = 'single', rate, copies = modes[mode].copies } = simulation
  const { atOnce = rate === undefined ? modes[mode].atOnce : mostAtOnce } = simulation
  const { signal, onOutcome = () => undefined } = watch
  const outcomes: Outcome[] = []
  const underWay = new Set<Promise<void>>()
  const bodies = bodiesOf(simulation)
  const started = performance.now()

  async function postOne(body: string, due: number): Promise<Outcome> {
    const answer = await post(url, body, {}, AbortSignal.timeout(patience)).catch((error: unknown) => ({
      status: 0,
      body: '',
      error,
    }))
    return { ...answer, ms: performance.now() - due }
  }

  for (let index = 0; ; index++) {
    const due = rate === undefined ? 0 : started + (Math.floor(index / copies) * 1000) / rate
    const wait = due - performance.now()
    // An abort ends the wait, and then the loop.
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
