import { registerHooks } from 'node:module'

/**
 * Resolves the import `bitrix24-webhook-receiver` to this running source, because handlers may be in any folder. Call it
 * before the first handler is loaded.
 */
export function resolvePackageAlias(): void {
  registerHooks({
    resolve: (specifier, context, next) =>
      next(
        specifier === 'bitrix24-webhook-receiver' ? new URL('../index.ts', import.meta.url).href : specifier,
        context,
      ),
  })
}
