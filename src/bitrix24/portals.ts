import { robotEvent } from '../events/robot.ts'
import { textOf } from './answer.ts'
import type { Bitrix24Error } from './bitrix24-error.ts'
import { createBudget, type OpenBudget, type Rate } from './budget.ts'
import type { Clock } from '../lib/clock.ts'
import { type Hook, hookFor, isHookOf } from './incoming-webhook.ts'
import { createHookHealth, type HookHealth } from './health.ts'
import { createLimits, type Limits } from './limits.ts'
import { createMembers, type Members } from './members.ts'
import { createRecords, type Records } from './records.ts'
import { type Connect, createTransport } from './transport.ts'

/** What all calls through one hook share in this process. */
export interface Access {
  readonly hook: Hook
  /** Of its portal: the hooks of one portal have the same. */
  readonly limits: Limits
  readonly health: HookHealth
  readonly records: Records
  readonly connect: Connect
}

/** What tells where an event is from. */
export interface Origin {
  readonly event?: string
  readonly webhook?: string | undefined
  readonly auth?: Readonly<Record<string, unknown>> | undefined
}

/** There is no hook for an event, as the settings are and as far as its portal is known. What needs one waits. */
export interface NoAccess {
  readonly refusal: string
  /** Of all events that wait for the same, one text. */
  readonly lacks: string
}

/** The portals that this process may call. */
export interface Portals {
  /** For the calls about an event; or why there is none. */
  readonly accessFor: (event: Origin) => Access | NoAccess
  /** The event waits for a hook. */
  readonly waitFor: (event: Origin) => void
  /** Of every hook. */
  readonly all: () => readonly Access[]
  readonly stop: () => void
}

export interface PortalsParts extends Rate {
  readonly hooks: readonly Hook[]
  readonly clock: Clock
  /** A hook went down, or, without trouble, is up again. */
  readonly onChange: (hook: Hook, trouble: Bitrix24Error | undefined) => void
  /** What waits for want of a hook, as `lacks` says, and why; without a reason it may be there now. */
  readonly onLack?: (lacks: string, refusal: string | undefined) => void
  /** What earlier processes have learnt of the portals; without it only this one's events count. */
  readonly members?: Members
  /** Instead of the transport alone, for what goes round each request of a handler. */
  readonly connect?: Connect
  /** For those whose limit is not theirs alone. */
  readonly openBudget?: OpenBudget
  /** Milliseconds between two probes of a hook that is down. */
  readonly probeEvery?: number
  /** Milliseconds that a probe is waited for. */
  readonly patience?: number
}

export function createPortals(parts: PortalsParts): Portals {
  const { hooks, onChange, connect = createTransport, openBudget = createBudget, ...probing } = parts
  const { onLack = () => undefined, members = createMembers() } = parts
  /** By what they wait for. */
  const lacking = new Set<string>()
  const { rate, burst, clock } = parts
  const limitsByHost = new Map<string, Limits>()
  const accesses = new Map<Hook, Access>()
  const stopping = new AbortController()

  for (const hook of hooks) {
    const own = { rate, burst, clock }
    const limits =
      limitsByHost.get(hook.host) ?? createLimits({ ...own, budget: openBudget({ ...own, portal: hook.host }) })
    limitsByHost.set(hook.host, limits)
    const health = createHookHealth({
      ...probing,
      hook,
      limits,
      clock,
      onChange: (trouble) => onChange(hook, trouble),
    })
    const records = createRecords({ hook, limits, signal: stopping.signal, connect })
    accesses.set(hook, { hook, limits, health, records, connect })
  }

  function accessFor(event: Origin): Access | NoAccess {
    if (hooks.length === 0) return { lacks: 'B24_HOOK', refusal: 'B24_HOOK is not set' }
    return event.event === robotEvent ? accessForRobot(event) : accessByName(event)
  }

  function accessByName(event: Origin): Access | NoAccess {
    const hook = hookFor(hooks, event.webhook)
    const access = hook && accesses.get(hook)
    if (!access) {
      const token = event.webhook === undefined ? 'a token without a name' : `the token "${event.webhook}"`
      return { lacks: `B24_HOOK for ${token}`, refusal: `B24_HOOK has no hook for the events of ${token}` }
    }
    if (isFrom(hook, event)) return access
    const domain = textOf(event.auth?.['domain'])
    const whose = domain === '' ? 'that names no portal' : `of ${domain}`
    return {
      lacks: `the portal of ${hook.label}`,
      refusal: `${hook.label} is not used for an event ${whose}${domain === '' ? '' : renamed}`,
    }
  }

  /** A robot's post comes with no token, so with no name: it is for the only hook of its portal. */
  function accessForRobot(event: Origin): Access | NoAccess {
    const [hook, ...others] = hooks.filter((one) => isFrom(one, event))
    const access = hook && others.length === 0 ? accesses.get(hook) : undefined
    const refusal = 'B24_HOOK has no hook for the robots of this portal, or several'
    return access ?? { lacks: 'B24_HOOK for robots', refusal }
  }

  /** @returns whether the event is from the hook's portal, by its member_id or by its domain, which learns the other */
  function isFrom({ host }: Hook, { auth }: Origin): boolean {
    const member = textOf(auth?.['member_id'])
    const domain = textOf(auth?.['domain'])
    if (isHookOf({ host }, domain)) {
      if (member !== '' && members.learn(host, member)) forgetLacks()
      return true
    }
    // A renamed portal: its old address may go on for a while, and its new one knows what happened before.
    return member !== '' && members.of(host) === member
  }

  /** What was learnt may be what they lacked; otherwise they will say so again. */
  function forgetLacks(): void {
    const before = [...lacking]
    lacking.clear()
    for (const lacks of before) onLack(lacks, undefined)
  }

  return {
    accessFor,
    waitFor(event) {
      const access = accessFor(event)
      // By now it may be there.
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
