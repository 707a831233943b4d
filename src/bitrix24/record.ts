/** An answer of the REST API, unchanged. */
export type LooseRecord = Readonly<Record<string, unknown>>

/** The records whose fields have types here, by the kind of their object. */
export interface RecordTypes {
  lead: CrmItem
  deal: CrmItem
  contact: CrmItem
  company: CrmItem
  quote: CrmItem
  /** Smart invoices, and the items of smart processes. */
  item: CrmItem
  task: Task
}

export type RecordOf<Kind extends string> = Kind extends keyof RecordTypes ? RecordTypes[Kind] : LooseRecord

type YesOrNo = 'Y' | 'N'

/**
 * The result of crm.item.get, for every kind. A field that a kind does not have is absent. Ids and amounts are
 * numbers, unlike in events. Times and dates are ISO 8601 with the portal's offset.
 *
 * https://apidocs.bitrix24.com/api-reference/crm/universal/object-fields.html
 */
export interface CrmItem {
  readonly id: number
  readonly entityTypeId: number
  readonly createdTime: string
  readonly updatedTime: string
  readonly createdBy: number
  readonly updatedBy: number
  readonly assignedById: number
  readonly observers?: readonly number[]
  readonly opened?: YesOrNo

  readonly title?: string | null
  readonly categoryId?: number | null
  readonly stageId?: string | null
  readonly previousStageId?: string | null
  /** In progress, successful, or failed. */
  readonly stageSemanticId?: 'P' | 'S' | 'F' | null
  readonly movedTime?: string | null
  readonly movedBy?: number | null
  readonly begindate?: string | null
  readonly closedate?: string | null
  readonly closed?: YesOrNo
  readonly typeId?: string | null
  readonly comments?: string | null

  readonly opportunity?: number | null
  readonly isManualOpportunity?: YesOrNo
  readonly taxValue?: number | null
  readonly currencyId?: string | null

  /** 0 for none, as in the other ids of linked objects. */
  readonly companyId?: number | null
  readonly companyIds?: readonly number[]
  readonly contactId?: number | null
  readonly contactIds?: readonly number[]
  readonly leadId?: number | null
  readonly dealId?: number | null
  readonly quoteId?: number | null
  readonly mycompanyId?: number | null
  readonly [parent: `parentId${number}`]: number | null

  readonly name?: string | null
  readonly secondName?: string | null
  readonly lastName?: string | null
  readonly honorific?: string | null
  readonly birthdate?: string | null
  readonly post?: string | null
  /** For a lead: the typed text. A linked company is in `companyId`. */
  readonly companyTitle?: string | null
  readonly hasPhone?: YesOrNo
  readonly hasEmail?: YesOrNo
  /** Phones, e-mails, sites and messengers. */
  readonly fm?: readonly Multifield[]

  readonly sourceId?: string | null
  readonly sourceDescription?: string | null
  readonly webformId?: number | null
  readonly originatorId?: string | null
  readonly originId?: string | null
  readonly xmlId?: string | null
  readonly utmSource?: string | null
  readonly utmMedium?: string | null
  readonly utmCampaign?: string | null
  readonly utmContent?: string | null
  readonly utmTerm?: string | null
  readonly lastActivityTime?: string | null
  readonly lastActivityBy?: number | null

  /** Custom fields, under their names in the portal. */
  readonly [custom: `UF_${string}`]: unknown
}

export interface Multifield {
  readonly id: number
  readonly typeId: 'PHONE' | 'EMAIL' | 'WEB' | 'IM' | 'LINK'
  /** `WORK`, `HOME`, `MAILING`, … */
  readonly valueType: string
  readonly value: string
}

/**
 * The result of tasks.task.get. Ids and numbers are texts, as in events.
 *
 * https://apidocs.bitrix24.com/api-reference/tasks/fields.html
 */
export interface Task {
  readonly id: string
  readonly title?: string
  readonly description?: string | null
  /** 2 waits, 3 in progress, 4 awaits control, 5 completed, 6 postponed. */
  readonly status?: string
  readonly priority?: string
  readonly mark?: 'N' | 'P' | null
  readonly stageId?: string | null
  readonly parentId?: string | null
  readonly groupId?: string | null
  readonly flowId?: string | null
  readonly createdBy?: string
  readonly createdDate?: string
  readonly changedBy?: string
  readonly changedDate?: string
  readonly statusChangedBy?: string | null
  readonly statusChangedDate?: string | null
  readonly closedBy?: string | null
  readonly closedDate?: string | null
  readonly activityDate?: string | null
  readonly deadline?: string | null
  readonly startDatePlan?: string | null
  readonly endDatePlan?: string | null
  readonly responsibleId?: string
  readonly accomplices?: readonly string[]
  readonly auditors?: readonly string[]
  /** Seconds. */
  readonly timeEstimate?: string
  readonly timeSpentInLogs?: string | null
  readonly commentsCount?: string | null
  /** The CRM objects it belongs to: `['D_662', 'C_42', 'T408_21']`, with the type's number in hexadecimal. */
  readonly ufCrmTask?: readonly string[] | false | null
  /** Custom fields: `UF_AUTO_1` is `ufAuto1`. */
  readonly [custom: `uf${string}`]: unknown
}
