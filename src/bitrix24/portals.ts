import { robotEvent } from '../events/robot.ts'
import type { Bitrix24Error } from './bitrix24-error.ts'
import { createBudget, type OpenBudget, type Rate } from './budget.ts'
import type { Clock } from './clock.ts'
import { type Hook, hookFor, isHookOf } from './hook.ts'
import { createHookHealth, type HookHealth } from './hook-health.ts'
import { createLimits, type Limits } from './limits.ts'
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

/** The portals that this process may call. */
export interface Portals {
  /** For the calls about an event; or why there is none. */
  readonly accessFor: (event: Origin) => Access | { readonly refusal: string }
  /** Of every hook. */
  readonly all: () => readonly Access[]
  readonly stop: () => void
}

export interface PortalsParts extends Rate {
  readonly hooks: readonly Hook[]
  readonly clock: Clock
  /** A hook went down, or, without trouble, is up again. */
  readonly onChange: (hook: Hook, trouble: Bitrix24Error | undefined) => void
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

  return {
    accessFor({ event, webhook, auth }) {
      if (hooks.length === 0) return { refusal: 'B24_HOOK is not set' }
      const hook = event === robotEvent ? hookForRobot(hooks, auth) : hookFor(hooks, webhook)
      const access = hook && accesses.get(hook)
      if (!access && event === robotEvent)
        return { refusal: 'B24_HOOK has no hook for the robots of this portal, or several' }
      if (!access) {
        const token = webhook === undefined ? 'a token without a name' : `the token "${webhook}"`
        return { refusal: `B24_HOOK has no hook for the events of ${token}` }
      }
      const domain = auth?.['domain']
      const { label } = access.hook
      if (typeof domain !== 'string') return { refusal: `${label} is not used for an event that names no portal` }
      if (!isHookOf(access.hook, domain)) return { refusal: `${label} is not used for an event of ${domain}` }
      return access
    },
    all: () => [...accesses.values()],
    stop() {
      stopping.abort(new Error('nothing is read any more'))
      for (const { health } of accesses.values()) health.stop()
    },
  }
}

/** A robot's post comes with no token, so with no name: it is for the only hook of its portal. */
function hookForRobot(hooks: readonly Hook[], auth: Origin['auth']): Hook | undefined {
  const domain = auth?.['domain']
  const [hook, ...others] = hooks.filter((one) => typeof domain === 'string' && isHookOf(one, domain))
  return others.length === 0 ? hook : undefined
}
