import { robotEvent } from '../events/robot.ts'
import type { Clock } from '../lib/clock.ts'
import { textOf } from './answer.ts'
import type { Bitrix24Error } from './bitrix24-error.ts'
import { createBudget, type OpenBudget, type Rate } from './budget.ts'
import { createIncomingWebhookHealth, type IncomingWebhookHealth, type IncomingWebhookHealthDeps } from './health.ts'
import { type IncomingWebhook, incomingWebhookFor, isIncomingWebhookOf } from './incoming-webhook.ts'
import { createLimits, type Limits } from './limits.ts'
import { createMembers, type Members } from './members.ts'
import { createRecords, type Records } from './records.ts'
import { type Connect, createTransport } from './transport.ts'

/** The state that all calls through one incoming webhook share in this process. */
export interface Access {
  readonly incomingWebhook: IncomingWebhook
  /** The limits of its portal: all incoming webhooks of one portal share them. */
  readonly limits: Limits
  readonly health: IncomingWebhookHealth
  readonly records: Records
  readonly connect: Connect
}

/** The fields that identify an event's portal. */
export interface Origin {
  readonly event?: string
  readonly webhook?: string | undefined
  readonly auth?: Readonly<Record<string, unknown>> | undefined
}

/**
 * An event has no incoming webhook, according to the settings and what is known about its portal. A run that needs
 * one waits.
 */
export interface NoAccess {
  readonly refusal: string
  /** The same text for all events that wait for the same incoming webhook. */
  readonly lacks: string
}

/** The portals that this process may call. */
export interface Portals {
  /** Returns the access for calls about an event, or why there is none. */
  readonly accessFor: (event: Origin) => Access | NoAccess
  /** Records that the event waits for an incoming webhook. */
  readonly waitFor: (event: Origin) => void
  /** Returns the access of every incoming webhook. */
  readonly all: () => readonly Access[]
  readonly stop: () => void
}

export interface PortalsDeps extends Rate, Pick<IncomingWebhookHealthDeps, 'probeEvery' | 'probeTimeoutMs'> {
  readonly incomingWebhooks: readonly IncomingWebhook[]
  readonly clock: Clock
  /** An incoming webhook went down, or, without trouble, works again. */
  readonly onChange: (incomingWebhook: IncomingWebhook, trouble: Bitrix24Error | undefined) => void
  /** Reports which incoming webhook is missing, as in `lacks`, and why. Without a reason it may be available now. */
  readonly onLack?: (lacks: string, refusal: string | undefined) => void
  /** What earlier processes have learnt about the portals. Without it, only the events of this process count. */
  readonly members?: Members
  /** Replaces the transport, to wrap each request of a handler. */
  readonly connect?: Connect
  /** For processes that share a portal's limit with others. */
  readonly openBudget?: OpenBudget
}

export function createPortals(deps: PortalsDeps): Portals {
  const { incomingWebhooks, onChange, connect = createTransport, openBudget = createBudget, ...probing } = deps
  const { onLack = () => undefined, members = createMembers() } = deps
  /** By the missing incoming webhook. */
  const lacking = new Set<string>()
  const { rate, burst, clock } = deps
  const limitsByHost = new Map<string, Limits>()
  const accesses = new Map<IncomingWebhook, Access>()
  const stopping = new AbortController()

  for (const incomingWebhook of incomingWebhooks) {
    const own = { rate, burst, clock }
    const limits =
      limitsByHost.get(incomingWebhook.host) ??
      createLimits({ ...own, budget: openBudget({ ...own, portal: incomingWebhook.host }) })
    limitsByHost.set(incomingWebhook.host, limits)
    const health = createIncomingWebhookHealth({
      ...probing,
      incomingWebhook,
      limits,
      clock,
      onChange: (trouble) => onChange(incomingWebhook, trouble),
    })
    const records = createRecords({ incomingWebhook, limits, signal: stopping.signal, connect })
    accesses.set(incomingWebhook, { incomingWebhook, limits, health, records, connect })
  }

  function accessFor(event: Origin): Access | NoAccess {
    if (incomingWebhooks.length === 0) return { lacks: 'B24_HOOK', refusal: 'B24_HOOK is not set' }
    return event.event === robotEvent ? accessForRobot(event) : accessByName(event)
  }

  function accessByName(event: Origin): Access | NoAccess {
    const incomingWebhook = incomingWebhookFor(incomingWebhooks, event.webhook)
    const access = incomingWebhook && accesses.get(incomingWebhook)
    if (!access) {
      const token = event.webhook === undefined ? 'a token without a name' : `the token "${event.webhook}"`
      return { lacks: `B24_HOOK for ${token}`, refusal: `B24_HOOK has no incoming webhook for the events of ${token}` }
    }
    if (isFrom(incomingWebhook, event)) return access
    const domain = textOf(event.auth?.['domain'])
    const whose = domain === '' ? 'that names no portal' : `of ${domain}`
    return {
      lacks: `the portal of ${incomingWebhook.label}`,
      refusal: `${incomingWebhook.label} is not used for an event ${whose}${domain === '' ? '' : renamed}`,
    }
  }

  /** A robot's post has no token and so no name. It is for the only incoming webhook of its portal. */
  function accessForRobot(event: Origin): Access | NoAccess {
    const [incomingWebhook, ...others] = incomingWebhooks.filter((one) => isFrom(one, event))
    const access = incomingWebhook && others.length === 0 ? accesses.get(incomingWebhook) : undefined
    const refusal = 'B24_HOOK has no incoming webhook for the robots of this portal, or several'
    return access ?? { lacks: 'B24_HOOK for robots', refusal }
  }

  /**
   * @returns whether the event is from the incoming webhook's portal, by its member_id or by its domain; a match by
   *   domain teaches the member_id
   */
  function isFrom({ host }: IncomingWebhook, { auth }: Origin): boolean {
    const member = textOf(auth?.['member_id'])
    const domain = textOf(auth?.['domain'])
    if (isIncomingWebhookOf({ host }, domain)) {
      if (member !== '' && members.learn(host, member)) forgetLacks()
      return true
    }
    // The portal may be renamed. Its old address may work for a while, and its new address has the earlier events.
    return member !== '' && members.of(host) === member
  }

  /** The missing incoming webhooks may be available after this. Otherwise the events report them again. */
  function forgetLacks(): void {
    const before = [...lacking]
    lacking.clear()
    for (const lacks of before) onLack(lacks, undefined)
  }

  return {
    accessFor,
    waitFor(event) {
      const access = accessFor(event)
      // The incoming webhook may be available by now.
      if (!('refusal' in access) || lacking.has(access.lacks)) return
      lacking.add(access.lacks)
      onLack(access.lacks, access.refusal)
    },
    all: () => [...accesses.values()],
    stop() {
      stopping.abort(new Error('nothing is read any more'))
      for (const { health } of accesses.values()) health.stop()
    },
  }
}

const renamed = ': if the portal was renamed, B24_HOOK needs its new address'
