/** What handler files import from `bitrix24-webhook-receiver`. */
export { Bitrix24Error } from './bitrix24/bitrix24-error.ts'
export type { Client, Commands, Params, Settled } from './bitrix24/client.ts'
export type { CrmItem, LooseRecord, Multifield, RecordOf, RecordTypes, Task } from './bitrix24/record.ts'
export { type ForwardOptions, forward } from './dispatch/forward.ts'
export type { Context, FieldOf, Handler, HandlerDefinition, HandlerOptions, PreviousOf } from './dispatch/handler.ts'
export { defineHandler, FinalError, RetryAfter } from './dispatch/handler.ts'
export type { Auth, EventData, EventName, EventOf as Event } from './events/typed.ts'
export type { Form, FormValue } from './intake/form.ts'
