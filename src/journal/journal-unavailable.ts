/** The disk refused the event or took too long. The event is not in the journal; it went to stderr. */
export class JournalUnavailable extends Error {
  override readonly name = 'JournalUnavailable'
  /** For the diagnostic log. */
  readonly details: Readonly<Record<string, unknown>>

  constructor(details: Readonly<Record<string, unknown>> = {}, options?: ErrorOptions) {
    super('journal_unavailable', options)
    this.details = details
  }
}
