/** Formats a number of things: `1 event`, `2 events`, `2 deliveries`. */
export function count(number: number, one: string, many = `${one}s`): string {
  return `${number} ${number === 1 ? one : many}`
}
