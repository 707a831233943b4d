/** An incoming webhook. Its URL is a secret and out of reach of whatever prints, walks or serializes an object. */
export interface Hook {
  /** As the token whose events it is for; `undefined` for the only one. */
  readonly name: string | undefined
  /** With the port, where it has one; lower case. */
  readonly host: string
  /** The user it acts as. */
  readonly user: string
  /** How to call it in a message. */
  readonly label: string
  /** The secret, for whoever sends the request. */
  readonly reveal: () => string
  /** Takes the secret out of a text that comes from outside. */
  readonly redact: (text: string) => string
}

/**
 * `https://example.bitrix24.com/rest/1/abc/`, or several with names: `sales=https://…,support=https://…`.
 *
 * @throws {TypeError} saying what is wrong, without a value: any part of it may be the secret
 */
export function parseHooks(text: string): readonly Hook[] {
  const entries = text.split(',').map((entry) => entry.trim())
  const hooks: Hook[] = []
  for (const [index, entry] of entries.entries()) {
    const named = /^([A-Za-z0-9_.-]{1,40})=(.*)$/s.exec(entry)
    const name = named?.[1]
    const which = name === undefined ? `entry ${index + 1}` : `"${name}"`
    if (name === undefined && entries.length > 1)
      throw new TypeError(`${which} needs a name, as the tokens have: sales=https://…,support=https://…`)
    if (hooks.some((hook) => hook.name === name)) throw new TypeError(`names ${which} twice`)
    hooks.push(toHook(name, which, (named?.[2] ?? entry).trim()))
  }
  return hooks
}

function toHook(name: string | undefined, which: string, text: string): Hook {
  if (text === '') throw new TypeError(`${which} is empty`)
  if (!URL.canParse(text))
    throw new TypeError(
      `${which} is no URL such as https://example.bitrix24.com/rest/1/…/ (an application token is not)`,
    )
  const { protocol, host, pathname, search, hash, username, password } = new URL(text)
  if (protocol !== 'https:') throw new TypeError(`${which} must begin with https://`)
  const [, user, code] = /^\/rest\/(\d+)\/([A-Za-z0-9]+)\/?$/.exec(pathname) ?? []
  if (user === undefined || code === undefined || search + hash + username + password !== '')
    throw new TypeError(
      `${which} must be as Bitrix24 shows it and end after the code: https://<portal>/rest/<user>/<code>/`,
    )
  return {
    name,
    host,
    user,
    label: name === undefined ? `the hook of ${host}` : `the hook "${name}" of ${host}`,
    reveal: () => `https://${host}/rest/${user}/${code}/`,
    redact: (message) => message.replaceAll(code, '…'),
  }
}

/** The hook for the events of a token: the one of its name, or the only one when that has none. */
export function hookFor(hooks: readonly Hook[], webhook: string | undefined): Hook | undefined {
  return hooks.find(({ name }) => name === undefined || name === webhook)
}

/** Tokens whose events have no hook, in words; where there is no hook at all, none may be needed. */
export function tokensWithoutHook(hooks: readonly Hook[], tokens: readonly Pick<Hook, 'name'>[]): string[] {
  const lacking = hooks.length === 0 ? [] : tokens.filter(({ name }) => hookFor(hooks, name) === undefined)
  return lacking.map(({ name }) => (name === undefined ? 'the token without a name' : `the token "${name}"`))
}

/** Whether an event's `auth.domain` means the hook's portal; of a portal on a port of its own it may lack the port. */
export function isHookOf({ host }: Pick<Hook, 'host'>, domain: string): boolean {
  const wanted = domain.toLowerCase()
  return wanted === host || wanted === host.replace(/:\d+$/, '')
}
