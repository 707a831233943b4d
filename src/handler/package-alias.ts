import { registerHooks } from 'node:module'

/**
 * Handlers may lie in any folder; what they import as `bitrix24-webhook-receiver` is this running source. To be called
 * before the first is loaded.
 */
export function resolveOurName(): void {
  registerHooks({
    resolve: (specifier, context, next) =>
      next(
        specifier === 'bitrix24-webhook-receiver' ? new URL('../index.ts', import.meta.url).href : specifier,
        context,
      ),
  })
}
