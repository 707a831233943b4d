import {
  type Auth,
  type Context,
  type CrmItem,
  defineHandler,
  type Event,
  type Form,
  type FormValue,
  type LooseRecord,
  type Task,
} from 'bitrix24-webhook-receiver'
import { expectTypeOf } from 'vitest'
import type { JournalledEvent } from '../../../src/events/event.ts'

// What this file says about types is checked by tsc; nothing of it runs.

declare module 'bitrix24-webhook-receiver' {
  interface EventData {
    ONTESTCOUNTED: { TOTAL: string }
    ONTESTMAYBE: { TOTAL: string } | undefined
  }
}

defineHandler('ONCRMDEALUPDATE', (event, context) => {
  expectTypeOf(event.event).toEqualTypeOf<'ONCRMDEALUPDATE'>()
  expectTypeOf(event.data).toEqualTypeOf<{ readonly FIELDS: { readonly ID: string } }>()
  expectTypeOf(event.object).toEqualTypeOf<string | undefined>()
  expectTypeOf(event.shape).toEqualTypeOf<'unexpected' | undefined>()
  expectTypeOf(event.auth).toEqualTypeOf<Auth | undefined>()
  expectTypeOf(event.auth?.['domain']).toEqualTypeOf<string | undefined>()
  expectTypeOf(event.auth?.['scope']).toEqualTypeOf<FormValue | undefined>()
  expectTypeOf(context).toEqualTypeOf<Context<undefined, 'deal'>>()
  expectTypeOf(context.record()).toEqualTypeOf<Promise<CrmItem | null>>()
  expectTypeOf(context.record<'task'>()).toEqualTypeOf<Promise<Task | null>>()
  // @ts-expect-error the event brings no values, only the id
  void event.data.FIELDS.TITLE
  // @ts-expect-error every leaf is a text
  event.data.FIELDS.ID.toFixed()
  // @ts-expect-error there is no such key
  void event.data.ID
  // @ts-expect-error an event is read only
  event.data.FIELDS.ID = '1'
})

// A name in any case, with dots, or of one dynamic type.
defineHandler('onCrmLeadAdd', (event) => {
  expectTypeOf(event.event).toEqualTypeOf<'ONCRMLEADADD'>()
  expectTypeOf(event.data.FIELDS.ID).toEqualTypeOf<string>()
})
defineHandler('CATALOG.PRODUCT.ON.ADD', (event) => expectTypeOf(event.data.FIELDS.TYPE).toEqualTypeOf<string>())
defineHandler('ONCRMDYNAMICITEMUPDATE_147', (event) => {
  expectTypeOf(event.event).toEqualTypeOf<'ONCRMDYNAMICITEMUPDATE_147'>()
  expectTypeOf(event.data.FIELDS.ENTITY_TYPE_ID).toEqualTypeOf<string>()
})
// @ts-expect-error no event of a deal ends in a type
defineHandler('ONCRMDEALUPDATE_147', (event) => event.data.FIELDS)

// Where the id stands differs.
defineHandler('ONBOOKINGADD', (event) => expectTypeOf(event.data.ID).toEqualTypeOf<string>())
defineHandler('ONCALENDARENTRYADD', (event) => expectTypeOf(event.data.id).toEqualTypeOf<string>())
defineHandler('ONLIVEFEEDPOSTADD', (event) => expectTypeOf(event.data.FIELDS.POST_ID).toEqualTypeOf<string>())
defineHandler('ONCRMTIMELINECOMMENTADD', (event) => {
  expectTypeOf(event.data.FIELDS.ID).toEqualTypeOf<string>()
  // @ts-expect-error the documentation says so, the portal does not send it
  void event.data.ID
})

// What may be absent is absent from the type, too.
defineHandler('ONVOXIMPLANTCALLINIT', (event) => {
  expectTypeOf(event.data.CALL_ID).toEqualTypeOf<string>()
  expectTypeOf(event.data.PHONE_NUMBER).toEqualTypeOf<string | undefined>()
  // @ts-expect-error a call that was registered by REST has no number
  void event.data.PHONE_NUMBER.length
})
defineHandler('ONSALEORDERSAVED', (event) =>
  expectTypeOf(event.data.FIELDS).toEqualTypeOf<{
    readonly ID: string
    readonly XML_ID?: string
    readonly ACTION: string
  }>(),
)
defineHandler('ONOFFLINEEVENT', (event) => expectTypeOf(event.data).toEqualTypeOf<undefined>())
defineHandler('ONIMCONNECTORLINEDELETE', (event) => expectTypeOf(event.data).toEqualTypeOf<string>())
defineHandler('ONAPPMETHODCONFIRM', (event) => {
  // @ts-expect-error a secret, which does not reach the journal
  void event.data.TOKEN
})

// The word undefined is told from an object by comparing.
defineHandler('ONTASKUPDATE', (event) => {
  const { FIELDS_AFTER } = event.data
  expectTypeOf(FIELDS_AFTER).toEqualTypeOf<'undefined' | { readonly ID: string }>()
  // @ts-expect-error of a deleted task it is the word undefined
  void FIELDS_AFTER.ID
  if (FIELDS_AFTER !== 'undefined') expectTypeOf(FIELDS_AFTER.ID).toEqualTypeOf<string>()
  expectTypeOf(event.data.IS_ACCESSIBLE_AFTER).toEqualTypeOf<string>()
})

// Lists have at least one item, and objects that are keyed by ids any key.
defineHandler('ONSESSIONSTART', (event) => expectTypeOf(event.data.DATA[0].chat.id).toEqualTypeOf<string>())
defineHandler('ONIMBOTMESSAGEADD', (event) => {
  expectTypeOf(event.data.BOT['567']?.BOT_ID).toEqualTypeOf<string | undefined>()
  expectTypeOf(event.data.PARAMS.DIALOG_ID).toEqualTypeOf<string>()
  expectTypeOf(event.data.PARAMS['CHAT_USER_COUNT']).toEqualTypeOf<FormValue | undefined>()
})

// Several names are the union, told apart by `event`.
defineHandler(['ONCRMDEALADD', 'ONTASKADD', 'ONSOMETHINGNEW'], (event) => {
  expectTypeOf(event.event).toEqualTypeOf<'ONCRMDEALADD' | 'ONTASKADD' | 'ONSOMETHINGNEW'>()
  // @ts-expect-error a task has no FIELDS
  void event.data.FIELDS
  if (event.event === 'ONCRMDEALADD') expectTypeOf(event.data.FIELDS.ID).toEqualTypeOf<string>()
  if (event.event === 'ONSOMETHINGNEW') expectTypeOf(event.data).toEqualTypeOf<FormValue | undefined>()
})

// A pattern is the union of the known names that it matches.
defineHandler('ONCRMCOMP*Y*ADD', (event) => {
  expectTypeOf(event.event).toEqualTypeOf<'ONCRMCOMPANYADD' | 'ONCRMCOMPANYUSERFIELDADD'>()
  expectTypeOf(event.data.FIELDS.ID).toEqualTypeOf<string>()
})
defineHandler('oncrmdynamicitem*', (event) => {
  expectTypeOf(event.data.FIELDS.ENTITY_TYPE_ID).toEqualTypeOf<string>()
  if (event.event === 'ONCRMDYNAMICITEMADD') expectTypeOf(event.data.FIELDS.ID).toEqualTypeOf<string>()
})
defineHandler('*.ON.ADD', (event) => expectTypeOf(event.data.FIELDS.ID).toEqualTypeOf<string>())
defineHandler('*', (event) => {
  if (event.event === 'ONVOXIMPLANTCALLSTART') expectTypeOf(event.data.CALL_ID).toEqualTypeOf<string>()
  if (event.event === 'ONTESTCOUNTED') expectTypeOf(event.data.TOTAL).toEqualTypeOf<string>()
})
defineHandler('ONSOMETHING*', (event) => expectTypeOf(event).toEqualTypeOf<JournalledEvent>())

// A name that nobody knows needs no release of ours.
defineHandler('ONSOMETHINGNEW', (event) => {
  expectTypeOf(event.event).toEqualTypeOf<'ONSOMETHINGNEW'>()
  expectTypeOf(event.data).toEqualTypeOf<FormValue | undefined>()
  // @ts-expect-error nobody knows what it has
  void event.data.FIELDS.ID
})
// @ts-expect-error so has a misspelt one
defineHandler('ONCRMDEALUPDAET', (event) => event.data.FIELDS.ID)
const names: string[] = ['ONCRMDEALUPDATE']
defineHandler(names, (event) => expectTypeOf(event).toEqualTypeOf<JournalledEvent>())

// An integrator's own.
defineHandler('ONTESTCOUNTED', (event) => expectTypeOf(event.data).toEqualTypeOf<{ TOTAL: string }>())
defineHandler('ONTESTMAYBE', (event) => {
  // @ts-expect-error it may be absent
  void event.data.TOTAL
})

// A file without defineHandler names its event in the type.
expectTypeOf<Event>().toEqualTypeOf<JournalledEvent>()
expectTypeOf<Event<'ONCRMDEALUPDATE'>['data']['FIELDS']['ID']>().toEqualTypeOf<string>()
expectTypeOf<Event<'ONCRMDEALADD' | 'ONCRMDEALUPDATE'>['event']>().toEqualTypeOf<'ONCRMDEALADD' | 'ONCRMDEALUPDATE'>()
// A helper for any event takes any typed one.
export const widened = (event: Event<'*'>): Event => event

// The record is of what the event is about, as far as that is known.
defineHandler('ONTASKUPDATE', (_event, { record }) => expectTypeOf(record()).toEqualTypeOf<Promise<Task | null>>())
defineHandler('ONCRMDEAL*', (_event, { record }) =>
  expectTypeOf(record()).toEqualTypeOf<Promise<CrmItem | LooseRecord | null>>(),
)
defineHandler(['ONCRMDEALADD', 'ONTASKADD'], (_event, { record }) =>
  expectTypeOf(record()).toEqualTypeOf<Promise<CrmItem | Task | null>>(),
)
defineHandler('ONSOMETHINGNEW', (_event, { record }) =>
  expectTypeOf(record()).toEqualTypeOf<Promise<LooseRecord | null>>(),
)
// A handler of any event takes the context of a typed one.
export const loose = (context: Context<undefined, 'deal'>): Context<undefined> => context

// A robot's parameters are those of its URL, if there are any.
defineHandler('ROBOT', (event) => {
  expectTypeOf(event.event).toEqualTypeOf<'ROBOT'>()
  expectTypeOf(event.data).toEqualTypeOf<Form | undefined>()
  expectTypeOf(event.document_id).toEqualTypeOf<readonly string[] | undefined>()
})
