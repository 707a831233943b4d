import type { Form, FormValue } from '../intake/form.ts'
import type { JournalledEvent } from '../journal/follow.ts'
import type { Catalogue } from './catalogue.ts'
import type { Read } from './shape.ts'
import type { ShapeName, shapes } from './shapes.ts'

type Data = { readonly [S in ShapeName]: Read<(typeof shapes)[S]> }

type Documented = { [N in keyof Catalogue as NameOf<N>]: Data[Catalogue[N][1]] }

/** `ONCRMDYNAMICITEMUPDATE_147` and its like. */
type NameOf<Key> = Key extends `${infer Base}_{entityTypeId}` ? `${Base}_${number}` : Key

/**
 * Name → `data` of every event that has a type. Yours, or one that is new in Bitrix24, is added by declaration merging:
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
  /** The post of a robot: the parameters that stand in its URL. What a robot of one's own sends is `extra`. */
  ROBOT: Form | undefined
}

export type EventName = keyof EventData

/**
 * The event of this name; of several names the union, and of a pattern that of all known names that match. A name that
 * nobody knows has loose `data`, and so has every event when the name is just a `string`.
 *
 * The type is what the documentation and the portal's source say, not what was checked: an event whose `data` is
 * otherwise is delivered all the same, with `shape: 'unexpected'`.
 */
export type EventOf<Name extends string = string> = string extends Name
  ? JournalledEvent
  : Name extends `${string}*${string}`
    ? OfPattern<Extract<EventName, Template<Uppercase<Name>>>>
    : OfName<Uppercase<Name>>

type Kinds = { readonly [N in keyof Catalogue as NameOf<N>]: NonNullable<Catalogue[N][0]['object']>['kind'] }

/** The kind of object, such as `deal`, that events of this name are about; `string` where that is not known. */
export type KindOf<Name extends string> = KindOfEvent<EventOf<Name>['event']>

type KindOfEvent<Name extends string> = Name extends keyof Kinds ? Kinds[Name] : string

type OfName<Name extends string> = Name extends EventName ? Typed<Name> : Unknown<Name>

type OfPattern<Names extends EventName> = [Names] extends [never] ? JournalledEvent : Typed<Names>

/** `ONCRM*ADD` as the template type that its names extend. */
type Template<Pattern extends string> = Pattern extends `${infer Start}*${infer Rest}`
  ? `${Start}${string}${Template<Rest>}`
  : Pattern

type Typed<Name extends EventName> = Name extends unknown ? Known<Name, EventData[Name]> : never

type Known<Name extends string, Value> = undefined extends Value
  ? MayHaveData<Name, Exclude<Value, undefined>>
  : HasData<Name, Value>

type Unknown<Name extends string> = MayHaveData<Name, FormValue>

/**
 * What Bitrix24 says of the portal in every post; an application's has more. All 162 documented payloads have these four
 * (https://apidocs.bitrix24.com/api-reference/events/index.html).
 */
export interface Auth extends Form {
  readonly domain: string
  readonly member_id: string
  readonly client_endpoint: string
  readonly server_endpoint: string
}

interface Common extends Omit<JournalledEvent, 'event' | 'data' | 'auth'> {
  /** Absent where an on-premise portal sends none. */
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
