// Symbol.for, so that a second copy of this package in a handlers' node_modules means the same.
const finalBrand = Symbol.for('bitrix24-webhook-receiver.final')

/** Throw it when another try cannot help: the delivery is dead at once. */
export class FinalError extends Error {
  override readonly name = 'FinalError'
  readonly [finalBrand] = true
}

export function isFinal(error: unknown): boolean {
  return typeof error === 'object' && error !== null && finalBrand in error
}
