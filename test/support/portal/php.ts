/** What a REST call takes and gives: JSON, as far as PHP makes it. */
export type Json = string | number | boolean | null | readonly Json[] | JsonObject
export interface JsonObject {
  readonly [key: string]: Json
}

export function isJsonObject(value: unknown): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** PHP's `json_encode` of an array: with the keys 0, 1, 2, … it is a list, and so is an empty one. */
export function phpArray(entries: Iterable<readonly [string, Json]>): Json {
  const all = [...entries]
  return all.every(([key], index) => key === String(index)) ? all.map(([, value]) => value) : Object.fromEntries(all)
}

/** What PHP reads out of a JSON list or object: the values under their keys. */
export function phpEntries(value: Json | undefined): [string, Json][] {
  return typeof value === 'object' && value !== null ? Object.entries(value) : []
}

/** `date('c')` of a portal whose zone is UTC+3: whole seconds, as everywhere in Bitrix24. */
export function phpDate(ms: number): string {
  return `${new Date(Math.floor(ms / 1000) * 1000 + 3 * 3_600_000).toISOString().slice(0, 19)}+03:00`
}

export function asText(value: Json | undefined): string {
  return value === null || value === undefined || typeof value === 'object' ? '' : String(value)
}
