import type { Form, FormValue } from './form.ts'

const credentials = new Set(['access_token', 'refresh_token', 'application_token'])
const inQuery = new Set([...credentials, 'token', 'secret', 'key', 'password', 'auth'])

/**
 * A removed value shorter than this is not looked for elsewhere: `?key=1` must not empty every field that says 1.
 * Bitrix24's own tokens are 32 characters and longer.
 */
const shortestSecret = 8

/**
 * Removes credentials, so that no later code can leak them. They are not only in `auth`: bots and commands carry a
 * second block inside `data`, and ONAPPMETHODCONFIRM a `TOKEN`. Whatever equals a removed value, or one of `held`, goes
 * too, wherever it stands.
 */
export function removeSecrets(
  sent: { form: Form; query: Form | undefined },
  held: readonly string[],
): { form: Form; query: Form | undefined } {
  const values = new Set(held)
  const { data, ...rest } = sent.form
  const isConfirm = typeof rest['event'] === 'string' && rest['event'].toUpperCase() === 'ONAPPMETHODCONFIRM'
  const rules: readonly [FormValue | undefined, (key: string, value: FormValue) => boolean][] = [
    [rest, (key) => credentials.has(key)],
    [
      data,
      (key, value) =>
        credentials.has(key) || (key === 'auth' && typeof value !== 'string') || (isConfirm && key === 'token'),
    ],
    [sent.query, (key) => inQuery.has(key)],
  ]
  const [form, kept, query] = rules.map(([value, isSecret]) =>
    value === undefined ? value : dropKeys(value, isSecret, values),
  )
  if (kept !== undefined) (form as Form)['data'] = kept
  return {
    form: dropValues(form as Form, values) as Form,
    query: query === undefined ? query : (dropValues(query, values) as Form),
  }
}

/** A copy without the keys that `isSecret` (given them in lower case); what they held is added to `values`. */
function dropKeys(
  value: FormValue,
  isSecret: (key: string, value: FormValue) => boolean,
  values: Set<string>,
): FormValue {
  if (typeof value === 'string') return value
  if (Array.isArray(value)) return value.map((item) => dropKeys(item, isSecret, values))
  const kept: Form = Object.create(null)
  for (const [key, item] of Object.entries(value)) {
    if (isSecret(key.toLowerCase(), item))
      collect(item, credentials.has(key.toLowerCase()) || typeof item === 'string', values)
    else kept[key] = dropKeys(item, isSecret, values)
  }
  return kept
}

/** Of a removed block only the credentials are secret: its `scope` or `status` may well stand elsewhere. */
function collect(value: FormValue, isCredential: boolean, values: Set<string>): void {
  if (typeof value === 'string') {
    if (isCredential && value.length >= shortestSecret) values.add(value)
  } else {
    for (const [key, item] of Object.entries(value))
      collect(item, isCredential || credentials.has(key.toLowerCase()), values)
  }
}

function dropValues(value: FormValue, values: ReadonlySet<string>): FormValue {
  if (typeof value === 'string') return value
  if (Array.isArray(value)) return value.filter((item) => !isIn(item, values)).map((item) => dropValues(item, values))
  const kept: Form = Object.create(null)
  for (const [key, item] of Object.entries(value))
    if (!values.has(key) && !isIn(item, values)) kept[key] = dropValues(item, values)
  return kept
}

function isIn(value: FormValue, values: ReadonlySet<string>): boolean {
  return typeof value === 'string' && values.has(value)
}
