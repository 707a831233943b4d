/** What handler files import from `bitrix24-webhook-receiver`. */
export type { Context, Handler, HandlerDefinition, HandlerOptions } from './dispatch/handler.ts'
export { defineHandler, FinalError, RetryAfter } from './dispatch/handler.ts'
export type { EventData, EventName, EventOf as Event } from './events/typed.ts'
export type { Form, FormValue } from './intake/form.ts'
