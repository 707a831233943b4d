/** What a dispatcher tells its receiver. */
export type FromDispatcher =
  /** Its event loop turns. */
  | { readonly type: 'alive' }
  /** Every handler is loaded; the dispatcher before it may go. */
  | { readonly type: 'loaded' }
  /** It follows the journal. */
  | { readonly type: 'following' }
  /** It does not follow, and why; what it waits for is mended by hand. */
  | { readonly type: 'trouble'; readonly reason: string }
  /** A hook went down, or, without trouble, is up again. */
  | { readonly type: 'hook'; readonly label: string; readonly trouble?: string }
  /** A run ended. */
  | { readonly type: 'worked' }

/** What the receiver tells its dispatcher: end within so many milliseconds. */
export interface ToDispatcher {
  readonly type: 'stop'
  readonly grace: number
}
