/** A decoded body. Leaves are strings. Objects have no prototype, so a key from the wire can never reach one. */
export type FormValue = string | FormValue[] | Form
export interface Form {
  [key: string]: FormValue
}

export function isForm(value: FormValue | undefined): value is Form {
  return typeof value === 'object' && !Array.isArray(value)
}
