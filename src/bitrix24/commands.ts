import type { Bitrix24Error } from './bitrix24-error.ts'

export type Params = Readonly<Record<string, unknown>>
/** By key. A value may use the results of earlier commands, as `$result[key][field]`. */
export type Commands<K extends string = string> = Readonly<Record<K, readonly [method: string, params?: Params]>>

export type Settled = { readonly result: unknown } | { readonly error: Bitrix24Error }
