import type { Logger } from 'pino'
import { type Condition, type Kind, kinds } from './conditions.ts'

/** What is posted to ALERT_URL. */
export interface Alert {
  readonly kind: Kind
  readonly state: 'on' | 'over'
  /** For people: the host, and what is wrong, or that it is over. */
  readonly text: string
  /** The same, under the name that the chat methods of Bitrix24's REST have for it. */
  readonly MESSAGE: string
  /** When it was sent, ISO 8601. */
  readonly at: string
  /** When what it tells of began. */
  readonly since: string
  readonly host: string
  readonly details: Condition['details']
}

export interface AlertsParts {
  readonly host: string
  /** Resolves when the alert was taken; a rejection's message goes to the log. */
  readonly post: (alert: Alert) => Promise<void>
  readonly log: Pick<Logger, 'info' | 'warn'>
}

export interface Alerts {
  /** Tells what is news of what is wrong now. `at`: Unix milliseconds. To be called again and again. */
  update(conditions: readonly Condition[], at: number): void
}

/** Of one kind. */
interface Episode {
  /** `undefined` when nothing is wrong. */
  condition: Condition | undefined
  /** What was wrong last, for what could not be told while it was. */
  last: Condition | undefined
  since: number
  /** When `on` was sent within the last hour, the newest last. */
  toldAt: readonly number[]
  /** The news that were told; `undefined` when nothing ever was. */
  toldNews: number | undefined
  /** The last that was sent is `on`. */
  isOn: boolean
  isSending: boolean
  failures: number
  retryAt: number
}

const hour = 3_600_000
const shortestPause = 5_000
const longestPause = 300_000

/** Beginnings of one kind that are told within an hour. */
const maxBeginnings = 6

/**
 * Tells of every kind when it begins, and when that was told, also when it is over. What joins it while it lasts is told
 * an hour later at the earliest, all of it at once; and so is what is over and begins again without anything new. Something
 * new, such as another dead delivery, is told at once, up to six times an hour; what is more is counted, and told when the
 * hour has room, even if it is over by then.
 *
 * What is to be told is looked at again before each try, so an alert that could not be sent is replaced by what is true
 * by then, or by nothing.
 */
export function createAlerts({ host, post, log }: AlertsParts): Alerts {
  const episodes = new Map<Kind, Episode>()

  function alertOf(kind: Kind, episode: Episode, at: number): Alert | undefined {
    const { condition, since, toldNews, isOn } = episode
    // The distance: the clock may have been put back.
    episode.toldAt = episode.toldAt.filter((time) => Math.abs(at - time) < hour)
    const { length: told } = episode.toldAt
    if (condition === undefined && isOn) return compose('over', kinds[kind], {})
    const wrong = condition ?? episode.last
    if (wrong === undefined) return undefined
    const more = wrong.news - (toldNews ?? 0)
    // An end is told before anything else begins, so what is over is not on.
    if (condition === undefined && (more <= 0 || told >= maxBeginnings)) return undefined
    const isDue = told === 0 || (!isOn && more > 0 && told < maxBeginnings)
    if (!isDue || (isOn && more <= 0)) return undefined
    if (toldNews === undefined || (!isOn && more <= 1)) return compose('on', wrong.text, wrong.details)
    return compose('on', `${more} more: ${wrong.text}`, { ...wrong.details, more })

    function compose(state: Alert['state'], what: string, details: Condition['details']): Alert {
      const text = `${host}: ${what}`
      const times = { at: new Date(at).toISOString(), since: new Date(since).toISOString() }
      return { kind, state, text, MESSAGE: text, ...times, host, details }
    }
  }

  async function send(alert: Alert, episode: Episode, at: number): Promise<void> {
    const { kind, state } = alert
    const { news = 0 } = episode.condition ?? episode.last ?? {}
    episode.isSending = true
    try {
      await post(alert)
      episode.isOn = state === 'on'
      if (episode.isOn) {
        episode.toldAt = [...episode.toldAt, at]
        episode.toldNews = news
      }
      episode.failures = 0
      log.info({ kind, state }, 'alert sent')
    } catch (error) {
      const pause = Math.min(shortestPause * 2 ** episode.failures++, longestPause)
      episode.retryAt = at + pause
      const reason = error instanceof Error ? error.message : String(error)
      log.warn({ kind, state, reason, again_in_ms: pause }, 'an alert could not be sent')
    } finally {
      episode.isSending = false
    }
  }

  return {
    update(conditions, at) {
      for (const condition of conditions) if (!episodes.has(condition.kind)) episodes.set(condition.kind, newEpisode())
      for (const [kind, episode] of episodes) {
        const condition = conditions.find((one) => one.kind === kind)
        if (condition && !episode.condition) episode.since = at
        episode.condition = condition
        episode.last = condition ?? episode.last
        const isDue = episode.failures === 0 || at >= episode.retryAt || at < episode.retryAt - longestPause
        const alert = episode.isSending || !isDue ? undefined : alertOf(kind, episode, at)
        if (alert) void send(alert, episode, at)
      }
    },
  }
}

function newEpisode(): Episode {
  return {
    condition: undefined,
    last: undefined,
    since: 0,
    toldAt: [],
    toldNews: undefined,
    isOn: false,
    isSending: false,
    failures: 0,
    retryAt: 0,
  }
}
