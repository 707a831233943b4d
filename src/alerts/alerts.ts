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
  since: number
  /** When the last `on` was sent, of this or an earlier one. */
  toldAt: number | undefined
  /** The condition's news at that time; `undefined` when its end was told, too. */
  toldNews: number | undefined
  isSending: boolean
  failures: number
  retryAt: number
}

const hour = 3_600_000
const shortestPause = 5_000
const longestPause = 300_000

/**
 * Tells of every kind when it begins, and when that was told, also when it is over. What joins it while it lasts is told
 * an hour later at the earliest, all of it at once; and so is what is over and begins again.
 *
 * What is to be told is looked at anew before each try, so an alert that could not be sent is replaced by what is true
 * by then, or by nothing.
 */
export function createAlerts({ host, post, log }: AlertsParts): Alerts {
  const episodes = new Map<Kind, Episode>()

  function alertOf(kind: Kind, episode: Episode, at: number): Alert | undefined {
    const { condition, since, toldAt, toldNews } = episode
    if (condition === undefined) return toldNews === undefined ? undefined : compose('over', kinds[kind], {})
    // The distance: the clock may have been put back.
    if (toldAt !== undefined && Math.abs(at - toldAt) < hour) return undefined
    if (toldNews === undefined) return compose('on', condition.text, condition.details)
    const more = condition.news - toldNews
    return more > 0 ? compose('on', `${more} more: ${condition.text}`, { ...condition.details, more }) : undefined

    function compose(state: Alert['state'], what: string, details: Condition['details']): Alert {
      const text = `${host}: ${what}`
      const times = { at: new Date(at).toISOString(), since: new Date(since).toISOString() }
      return { kind, state, text, MESSAGE: text, ...times, host, details }
    }
  }

  async function send(alert: Alert, episode: Episode, at: number): Promise<void> {
    const { kind, state } = alert
    const news = episode.condition?.news
    episode.isSending = true
    try {
      await post(alert)
      if (state === 'on') episode.toldAt = at
      episode.toldNews = news
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
    since: 0,
    toldAt: undefined,
    toldNews: undefined,
    isSending: false,
    failures: 0,
    retryAt: 0,
  }
}
