import { type Context, defineHandler, type Handler, type LooseRecord } from 'bitrix24-webhook-receiver'
import { expectTypeOf } from 'vitest'

// What this file says about types is checked by tsc; nothing of it runs.

// What was kept has the types of the record, and may lack a field.
defineHandler(
  ['ONCRMDEALADD', 'ONCRMDEALUPDATE', 'ONCRMDEALDELETE'],
  (event, { previous }) => {
    expectTypeOf(event.event).toEqualTypeOf<'ONCRMDEALADD' | 'ONCRMDEALUPDATE' | 'ONCRMDEALDELETE'>()
    // @ts-expect-error it may be the first time
    void previous.stageId
    expectTypeOf(previous?.stageId).toEqualTypeOf<string | null | undefined>()
    expectTypeOf(previous?.opportunity).toEqualTypeOf<number | null | undefined>()
    expectTypeOf(previous?.UF_CRM_1639669411830).toEqualTypeOf<unknown>()
    expectTypeOf(previous?.parentId1032).toEqualTypeOf<number | null | undefined>()
    // @ts-expect-error only what onChange names
    void previous?.title
    // @ts-expect-error it is read only
    if (previous) previous.stageId = 'WON'
  },
  { onChange: ['stageId', 'opportunity', 'UF_CRM_1639669411830', 'parentId1032'], coalesce: 'object' },
)
defineHandler(
  'onTaskUpdate',
  (_event, { previous }) => expectTypeOf(previous?.status).toEqualTypeOf<string | undefined>(),
  {
    onChange: ['status', 'ufAuto1'],
  },
)
defineHandler(
  'ONCRMDYNAMICITEMUPDATE_1032',
  (_event, { previous }) => expectTypeOf(previous?.stageId).toEqualTypeOf<string | null | undefined>(),
  { onChange: ['stageId'] },
)

// Where the record's type is known, a name that it does not have is none.
// @ts-expect-error as older methods have it
defineHandler('ONCRMDEALUPDATE', () => undefined, { onChange: ['STAGE_ID'] })
// @ts-expect-error misspelt
defineHandler('ONCRMLEADUPDATE', () => undefined, { onChange: ['stageId', 'opportunty'] })
// @ts-expect-error of a deal, not of a task
defineHandler('ONTASKUPDATE', () => undefined, { onChange: ['opportunity'] })
// @ts-expect-error of deals, but tasks come here too
defineHandler(['ONCRMDEALUPDATE', 'ONTASKUPDATE'], () => undefined, { onChange: ['opportunity'] })
// @ts-expect-error a list
defineHandler('ONCRMDEALUPDATE', () => undefined, { onChange: 'stageId' })
defineHandler(['ONCRMDEALUPDATE', 'ONTASKUPDATE'], () => undefined, { onChange: ['title'] })
// A pattern stands for the events that it matches.
defineHandler('ONCRMCONTACT*', () => undefined, { onChange: ['lastName'] })
// @ts-expect-error misspelt
defineHandler('ONCRMCONTACT*', () => undefined, { onChange: ['lastname'] })

// Where nothing is known of the record, any name may be.
defineHandler(
  'ONCRMCURRENCYUPDATE',
  (_event, { previous }) => expectTypeOf(previous?.AMOUNT).toEqualTypeOf<unknown>(),
  {
    onChange: ['AMOUNT'],
  },
)
defineHandler('ONSOMETHINGNEW', () => undefined, { onChange: ['whatever'] })
const names: string[] = ['ONCRMDEALUPDATE']
defineHandler(names, () => undefined, { onChange: ['whatever'] })

// Without onChange nothing is kept.
defineHandler('ONCRMDEALUPDATE', (_event, { previous }) => expectTypeOf(previous).toEqualTypeOf<undefined>(), {
  coalesce: true,
})

// A helper that takes any context takes every one, and a function typed by itself may be given.
declare function helper(context: Context): void
declare const handler: Handler<'ONCRMDEALUPDATE'>
defineHandler('ONCRMDEALUPDATE', (_event, context) => helper(context), { onChange: ['stageId'] })
defineHandler('ONCRMDEALUPDATE', handler, { onChange: ['stageId'] })
defineHandler('ONCRMDEALUPDATE', handler)
expectTypeOf<Context['previous']>().toEqualTypeOf<LooseRecord | undefined>()
