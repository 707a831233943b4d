import type { Logger } from 'pino'
import { messageOf } from '../lib/error-text.ts'
import { type Condition, type Kind, kinds } from './conditions.ts'

/** The body that is posted to ALERT_URL. */
export interface Alert {
  readonly kind: Kind
  readonly state: 'on' | 'over'
  /** For people: the host, and what is wrong or that it is over. */
  readonly text: string
  /** The same text, under the parameter name that the chat methods of Bitrix24's REST API use. */
  readonly MESSAGE: string
  /** When the alert was sent, in ISO 8601. */
  readonly at: string
  /** When the condition began, in ISO 8601. */
  readonly since: string
  readonly host: string
  readonly details: Condition['details']
}

export interface AlertsDeps {
  readonly host: string
  /** Resolves when the target accepted the alert. The message of a rejection goes to the log. */
  readonly post: (alert: Alert) => Promise<void>
  readonly log: Pick<Logger, 'info' | 'warn'>
}

export interface Alerts {
  /** Sends what is new in the current conditions. Call it regularly. `at` is in Unix milliseconds. */
  update(conditions: readonly Condition[], at: number): void
}

/** The state of one kind of alert. */
interface Episode {
  /** `undefined` when nothing is wrong. */
  condition: Condition | undefined
  /** The last condition, for an alert that could not be sent while the condition lasted. */
  last: Condition | undefined
  since: number
  /** The times at which `on` was sent within the last hour, the newest last. */
  sentAt: readonly number[]
  /** The `news` of the last alert sent; `undefined` if none was. */
  sentNews: number | undefined
  /** Whether the last alert sent was `on`. */
  isOn: boolean
  isSending: boolean
  failures: number
  retryAt: number
}

const hour = 3_600_000
const minPauseMs = 5_000
const maxPauseMs = 300_000

/** The limit of `on` alerts of one kind within an hour. */
const maxBeginnings = 6

/**
 * Sends an alert when a condition of a kind begins, and another when it is over if the first was sent. News that joins a
 * lasting condition is sent together, an hour later at the earliest. So is a condition that is over and begins again
 * without news. A new incident after the end, such as another dead delivery, is sent at once, up to six times an hour.
 * Further ones are counted, and sent when the limit allows it, even if they are over by then.
 *
 * The alert is composed again before each attempt, so one that could not be sent is
 * replaced by the current state, or dropped.
 */
export function createAlerts({ host, post, log }: AlertsDeps): Alerts {
  const episodes = new Map<Kind, Episode>()

  function alertOf(kind: Kind, episode: Episode, at: number): Alert | undefined {
    const { condition, since, sentNews, isOn } = episode
    // The absolute distance, because the clock may have been put back.
    episode.sentAt = episode.sentAt.filter((time) => Math.abs(at - time) < hour)
    const { length: sentCount } = episode.sentAt
    if (condition === undefined && isOn) return compose('over', kinds[kind], {})
    const wrong = condition ?? episode.last
    if (wrong === undefined) return undefined
    const more = wrong.news - (sentNews ?? 0)
    // An end is sent before the next beginning, so `isOn` is false here if the condition is over.
    if (condition === undefined && (more <= 0 || sentCount >= maxBeginnings)) return undefined
    const isDue = sentCount === 0 || (!isOn && more > 0 && sentCount < maxBeginnings)
    if (!isDue || (isOn && more <= 0)) return undefined
    if (sentNews === undefined || (!isOn && more <= 1)) return compose('on', wrong.text, wrong.details)
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
        episode.sentAt = [...episode.sentAt, at]
        episode.sentNews = news
      }
      episode.failures = 0
      log.info({ kind, state }, 'alert sent')
    } catch (error) {
      const pause = Math.min(minPauseMs * 2 ** episode.failures++, maxPauseMs)
      episode.retryAt = at + pause
      log.warn({ kind, state, reason: messageOf(error), again_in_ms: pause }, 'an alert could not be sent')
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
        const isDue = episode.failures === 0 || at >= episode.retryAt || at < episode.retryAt - maxPauseMs
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
    sentAt: [],
    sentNews: undefined,
    isOn: false,
    isSending: false,
    failures: 0,
    retryAt: 0,
  }
}
