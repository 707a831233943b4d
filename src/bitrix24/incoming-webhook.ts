/** An incoming webhook. Its URL is a secret, so code that prints, walks or serializes an object cannot reach it. */
export interface IncomingWebhook {
  /** The name of the token whose events it serves; `undefined` for the only one. */
  readonly name: string | undefined
  /** Lower case, with the port if there is one. */
  readonly host: string
  /** The user as whom it acts. */
  readonly user: string
  /** Its description in a message. */
  readonly label: string
  /** Returns the secret, for the code that sends the request. */
  readonly reveal: () => string
  /** Removes the secret from a text that comes from outside. */
  readonly redact: (text: string) => string
}

/**
 * Parses `https://example.bitrix24.com/rest/1/abc/`, or several with names: `sales=https://…,support=https://…`.
 *
 * @throws {TypeError} saying what is wrong, without a value: any part of it may be the secret
 */
export function parseIncomingWebhooks(text: string): readonly IncomingWebhook[] {
  const entries = text.split(',').map((entry) => entry.trim())
  const incomingWebhooks: IncomingWebhook[] = []
  for (const [index, entry] of entries.entries()) {
    const named = /^([A-Za-z0-9_.-]{1,40})=(.*)$/s.exec(entry)
    const name = named?.[1]
    const which = name === undefined ? `entry ${index + 1}` : `"${name}"`
    if (name === undefined && entries.length > 1)
      throw new TypeError(`${which} needs a name, as the tokens have: sales=https://…,support=https://…`)
    if (incomingWebhooks.some((incomingWebhook) => incomingWebhook.name === name))
      throw new TypeError(`names ${which} twice`)
    incomingWebhooks.push(toIncomingWebhook(name, which, (named?.[2] ?? entry).trim()))
  }
  return incomingWebhooks
}

function toIncomingWebhook(name: string | undefined, which: string, text: string): IncomingWebhook {
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
    label: name === undefined ? `the incoming webhook of ${host}` : `the incoming webhook "${name}" of ${host}`,
    reveal: () => `https://${host}/rest/${user}/${code}/`,
    redact: (message) => message.replaceAll(code, '…'),
  }
}

/** Returns the incoming webhook for a token's events: the one with its name, or the only one if that has no name. */
export function incomingWebhookFor(
  incomingWebhooks: readonly IncomingWebhook[],
  webhook: string | undefined,
): IncomingWebhook | undefined {
  return incomingWebhooks.find(({ name }) => name === undefined || name === webhook)
}

/** Describes the tokens whose events have no incoming webhook. Without any incoming webhook, none may be needed. */
export function tokensWithoutIncomingWebhook(
  incomingWebhooks: readonly IncomingWebhook[],
  tokens: readonly Pick<IncomingWebhook, 'name'>[],
): string[] {
  const lacking =
    incomingWebhooks.length === 0
      ? []
      : tokens.filter(({ name }) => incomingWebhookFor(incomingWebhooks, name) === undefined)
  return lacking.map(({ name }) => (name === undefined ? 'the token without a name' : `the token "${name}"`))
}

/**
 * Returns whether an event's `auth.domain` is the incoming webhook's portal. For a portal on its own port the domain
 * may lack the port.
 */
export function isIncomingWebhookOf({ host }: Pick<IncomingWebhook, 'host'>, domain: string): boolean {
  const wanted = domain.toLowerCase()
  return wanted === host || wanted === host.replace(/:\d+$/, '')
}
