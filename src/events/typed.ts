import type { Catalogue } from './catalogue.ts'
import type { JournalledEvent } from './event.ts'
import type { Form, FormValue } from './form.ts'
import type { Read } from './shape.ts'
import type { ShapeName, shapes } from './shapes.ts'

type Data = { readonly [S in ShapeName]: Read<(typeof shapes)[S]> }

type Documented = { [N in keyof Catalogue as NameOf<N>]: Data[Catalogue[N][1]] }

/** `ONCRMDYNAMICITEMUPDATE_147` and similar names. */
type NameOf<Key> = Key extends `${infer Base}_{entityTypeId}` ? `${Base}_${number}` : Key

/**
 * Maps the name of every typed event to its `data`. Declaration merging adds your own events, or new ones of Bitrix24:
 *
 * ```ts
 * declare module 'bitrix24-webhook-receiver' {
 *   interface EventData {
 *     ONMYAPPCOUNTED: { TOTAL: string }
 *   }
 * }
 * ```
 */
export interface EventData extends Documented {
  /** The post of a robot: the parameters in its URL. The fields that a custom robot sends are in `extra`. */
  ROBOT: Form | undefined
}

export type EventName = keyof EventData

/**
 * The event with this name. For several names it is the union; for a pattern it is the union of all known names that
 * match. An unknown name has loose `data`, and so has every event if the name is just a `string`.
 *
 * The type follows the documentation and the portal's source and is not checked at runtime: an event with other
 * `data` is still delivered, with `shape: 'unexpected'`.
 */
export type EventOf<Name extends string = string> = string extends Name
  ? JournalledEvent
  : Name extends `${string}*${string}`
    ? OfPattern<Extract<EventName, Template<Uppercase<Name>>>>
    : OfName<Uppercase<Name>>

type Kinds = { readonly [N in keyof Catalogue as NameOf<N>]: NonNullable<Catalogue[N][0]['object']>['kind'] }

/** The kind of object, such as `deal`, that events with this name are about; `string` if that is unknown. */
export type KindOf<Name extends string> = KindOfEvent<EventOf<Name>['event']>

type KindOfEvent<Name extends string> = Name extends keyof Kinds ? Kinds[Name] : string

type OfName<Name extends string> = Name extends EventName ? Typed<Name> : Unknown<Name>

type OfPattern<Names extends EventName> = [Names] extends [never] ? JournalledEvent : Typed<Names>

/** `ONCRM*ADD` as the template type that matching names extend. */
type Template<Pattern extends string> = Pattern extends `${infer Start}*${infer Rest}`
  ? `${Start}${string}${Template<Rest>}`
  : Pattern

type Typed<Name extends EventName> = Name extends unknown ? Known<Name, EventData[Name]> : never

type Known<Name extends string, Value> = undefined extends Value
  ? MayHaveData<Name, Exclude<Value, undefined>>
  : HasData<Name, Value>

type Unknown<Name extends string> = MayHaveData<Name, FormValue>

/**
 * The fields about the portal that Bitrix24 sends in every post; an application's post has more. All 162 documented
 * payloads have these four (https://apidocs.bitrix24.com/api-reference/events/index.html).
 */
export interface Auth extends Form {
  readonly domain: string
  readonly member_id: string
  readonly client_endpoint: string
  readonly server_endpoint: string
}

interface Common extends Omit<JournalledEvent, 'event' | 'data' | 'auth'> {
  /** Absent if an on-premise portal sends none. */
  readonly auth?: Auth | undefined
}

interface HasData<Name, Value> extends Common {
  readonly event: Name
  readonly data: Value
}

interface MayHaveData<Name, Value> extends Common {
  readonly event: Name
  readonly data?: Value
}
