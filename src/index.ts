/** What handler files import from `bitrix24-webhook-receiver`. */
export type { CrmItem, LooseRecord, Multifield, RecordOf, RecordTypes, Task } from './bitrix24/record.ts'
export type { Context, Handler, HandlerDefinition, HandlerOptions } from './dispatch/handler.ts'
export { defineHandler, FinalError, RetryAfter } from './dispatch/handler.ts'
export type { Form, FormValue } from './intake/form.ts'
export type { JournalledEvent as Event } from './journal/follow.ts'
