/** The messages of the process that loads the handlers for `doctor`. */
export type FromLoader =
  | { readonly type: 'loading'; readonly files: readonly string[] }
  | {
      readonly type: 'loaded'
      readonly name: string
      readonly events: readonly string[]
      readonly unknown: readonly { readonly event: string; readonly nearest: string | undefined }[]
    }
  | { readonly type: 'broken'; readonly at: string; readonly error: string }
  | { readonly type: 'left out'; readonly file: string; readonly reason: string; readonly isDoubtful: boolean }
  | { readonly type: 'late'; readonly file: string; readonly reason: string }
  | { readonly type: 'end' }
