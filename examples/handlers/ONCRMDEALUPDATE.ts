import type { Context, Event } from 'bitrix24-webhook-receiver'

/**
 * A deal was changed. Bitrix24 says only which one (`event.object` is `deal:662`), so a real handler reads it back before
 * it does anything. Throwing means: try again later.
 */
export default async function dealUpdated(event: Event<'ONCRMDEALUPDATE'>, { log }: Context): Promise<void> {
  log.info({ portal: event.auth?.['domain'] }, `${event.object} was changed`)
}
