/**
 * What the REST API itself answers, whatever the method, with the words and statuses of
 * https://apidocs.bitrix24.com/_includes/system-errors.html as of August 2026. Older copies of that page have 403 for
 * `INVALID_CREDENTIALS`, `insufficient_scope` and `ACCESS_DENIED`, and 503 for `OVERLOAD_LIMIT`: `RestError.system`
 * takes another status.
 */
export const systemErrors = {
  NO_AUTH_FOUND: [401, 'Wrong authorization data'],
  expired_token: [401, 'The access token provided has expired'],
  INVALID_CREDENTIALS: [401, 'Invalid request credentials'],
  authorization_error: [401, 'Unable to authorize user'],
  // Of a method it is another thing, with another status: see `accessDenied`.
  ACCESS_DENIED: [401, 'REST is available only by subscription'],
  INVALID_REQUEST: [401, 'Https required'],
  OVERLOAD_LIMIT: [401, 'REST API is blocked due to overload'],
  insufficient_scope: [401, 'The request requires higher privileges than provided by the webhook token'],
  user_access_error: [401, 'The user does not have access to the application'],
  PORTAL_DELETED: [403, 'Portal was deleted'],
  ERROR_METHOD_NOT_FOUND: [404, 'Method not found!'],
  ERROR_BATCH_LENGTH_EXCEEDED: [400, 'Max batch length exceeded'],
  ERROR_BATCH_METHOD_NOT_ALLOWED: [405, 'Method is not allowed for batch usage'],
  OPERATION_TIME_LIMIT: [429, 'Method is blocked due to operation time limit'],
  INTERNAL_SERVER_ERROR: [500, 'Internal server error'],
  ERROR_UNEXPECTED_ANSWER: [500, 'Server returned an unexpected response'],
  QUERY_LIMIT_EXCEEDED: [503, 'Too many requests'],
} as const satisfies Record<string, readonly [status: number, description: string]>

export type SystemError = keyof typeof systemErrors

/** An answer that is an error. */
export class RestError extends Error {
  override readonly name = 'RestError'
  readonly code: string
  readonly status: number

  constructor(code: string, description: string, status = 400) {
    super(description)
    this.code = code
    this.status = status
  }

  /** @param status of another version of the portal */
  static system(code: SystemError, status: number = systemErrors[code][0]): RestError {
    return new RestError(code, systemErrors[code][1], status)
  }

  get body() {
    return { error: this.code, error_description: this.message }
  }
}

/** The incoming webhook's user may not: a method's own error (crm.item.get, "Possible Error Codes"). */
export function accessDenied(): RestError {
  return new RestError('ACCESS_DENIED', 'Access denied')
}
