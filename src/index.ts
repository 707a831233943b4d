/** What handler files import from `bitrix24-webhook-receiver`. */
export type { Context, Handler, HandlerDefinition, HandlerOptions } from './dispatch/handler.ts'
export { defineHandler, FinalError, RetryAfter } from './dispatch/handler.ts'
export type { Event } from './intake/event.ts'
export type { Form, FormValue } from './intake/form.ts'
