const units = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 } as const

/** Parses `500ms`, `30s`, `5m`, `2h` or `7d` to milliseconds. Returns `undefined` for anything else. */
export function parseDuration(text: string): number | undefined {
  const match = /^(\d{1,9})(ms|s|m|h|d)$/.exec(text)
  return match ? Number(match[1]) * units[match[2] as keyof typeof units] : undefined
}

/**
 * Formats a duration that `parseDuration` can read, in whole units: `72h`, `90s`, `500ms`. It drops the remainder
 * below the unit.
 */
export function toDuration(milliseconds: number): string {
  const unit = (['h', 'm', 's'] as const).find((one) => milliseconds >= 2 * units[one]) ?? 'ms'
  return `${Math.floor(milliseconds / units[unit])}${unit}`
}
