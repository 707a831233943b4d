// `Symbol.for` returns the same symbol in a second copy of this package in the handlers' node_modules.
const finalBrand = Symbol.for('bitrix24-webhook-receiver.final')

/** Throw it if another attempt cannot help: the delivery is dead at once. */
export class FinalError extends Error {
  override readonly name = 'FinalError'
  readonly [finalBrand] = true
}

export function isFinal(error: unknown): boolean {
  return typeof error === 'object' && error !== null && finalBrand in error
}
