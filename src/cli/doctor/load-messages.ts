import type { LoadedMessage } from '../try/messages.ts'

/** The messages of the process that loads the handlers for `doctor`. */
export type FromLoader =
  | { readonly type: 'loading'; readonly files: readonly string[] }
  | LoadedMessage
  | { readonly type: 'broken'; readonly at: string; readonly error: string }
  | { readonly type: 'left out'; readonly file: string; readonly reason: string; readonly isDoubtful: boolean }
  | { readonly type: 'late'; readonly file: string; readonly reason: string }
  | { readonly type: 'end' }
