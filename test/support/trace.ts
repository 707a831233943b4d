/** What a trace of the receiver shows about its promise that 200 means on disk. */
export interface TraceReport {
  /** Answers of 200 to posts. */
  readonly acknowledged: number
  /** Lines that a write to a segment of the journal took whole. */
  readonly written: number
  /** Fsyncs of segments that ended well. */
  readonly fsyncs: number
  /** Answers that came before their event was safe, in words. */
  readonly violations: readonly string[]
}

/** The system calls that the check needs; their strings must be whole. */
export const traceOptions = [
  '-f',
  '-y',
  '-s',
  '1048576',
  '-e',
  'trace=openat,read,write,writev,sendto,pwrite64,fdatasync,fsync',
]

interface Call {
  readonly name: string
  /** The path behind the descriptor, or `socket:[12345]`. */
  readonly file: string
  /** What was read or written, or to be written. */
  data: string
  /** Of the segment, lines whose write had ended when this began; of a folder, segments that were in it. */
  readonly before: number
}

interface TracedSegment {
  /** Deals, in the order of their lines. */
  readonly written: string[]
  rest: string
  /** So many of them met an fsync. */
  durable: number
  /** Whether its folder met an fsync since it was made: otherwise a power cut may take the whole file. */
  isNamed: boolean
}

/**
 * Reads a trace (`strace -f -y -o …`), in the order of which strace saw calls begin and end, and checks every 200:
 *
 * - there are never more of them than lines whose write ended before an fsync began that has ended,
 * - the very event that was posted on that connection is among those,
 * - and a segment counts only when its folder, too, met an fsync after it was made.
 *
 * Bodies and lines name their event by a deal's id, which must be posted once only.
 */
export function checkTrace(trace: string): TraceReport {
  const pending = new Map<string, Call>()
  const segments = new Map<string, TracedSegment>()
  const requests = new Map<string, string>()
  const violations: string[] = []
  let acknowledged = 0
  let fsyncs = 0

  for (const line of trace.split('\n')) {
    const [, pid = '', text = ''] = /^(\d+) +(?:[\d.]+ +)?(.*)$/s.exec(line) ?? []
    const resumed = /^<\.\.\. (\w+) resumed>(.*)$/s.exec(text)
    const begun = /^(\w+)\(\d+<([^>]*)>(.*)$/s.exec(text)
    const made = /^(?:openat\(|<\.\.\. openat resumed>).* = \d+<([^>]*)>$/s.exec(text)?.[1]
    if (made !== undefined && isSegment(made) && !segments.has(made))
      segments.set(made, { written: [], rest: '', durable: 0, isNamed: false })
    if (resumed) {
      const call = pending.get(pid)
      pending.delete(pid)
      if (call) end({ ...call, data: call.data + dataOf(resumed[2] ?? '') }, resultOf(text))
    } else if (begun) {
      const [, name = '', file = '', rest = ''] = begun
      const call = { name, file, data: dataOf(rest), before: segments.get(file)?.written.length ?? segments.size }
      begin(call)
      if (rest.endsWith('<unfinished ...>')) pending.set(pid, call)
      else end(call, resultOf(text))
    }
  }
  return {
    acknowledged,
    written: [...segments.values()].reduce((sum, { written }) => sum + written.length, 0),
    fsyncs,
    violations,
  }

  /** An answer counts from where its write begins: from then on the client may have it. */
  function begin({ name, file, data }: Call): void {
    if (!['write', 'writev', 'sendto'].includes(name) || !file.startsWith('socket:')) return
    const request = requests.get(file) ?? ''
    if (!data.startsWith('HTTP/1.1 ') || !request.startsWith('POST ')) return
    requests.delete(file)
    if (!data.startsWith('HTTP/1.1 200 ')) return
    acknowledged++
    const deal = dealOf(request)
    const safe = [...segments.values()].filter(({ isNamed }) => isNamed).flatMap(safeLines)
    if (acknowledged > safe.length)
      violations.push(`${acknowledged} answers of 200, but ${safe.length} lines were safe`)
    if (!safe.includes(deal)) violations.push(`deal ${deal} was answered before its line was safe`)
  }

  function end({ name, file, data, before }: Call, result: number): void {
    if (result < 0) return
    if (name === 'read' && file.startsWith('socket:')) requests.set(file, (requests.get(file) ?? '') + data)
    if (name === 'fsync' && file.endsWith('/journal'))
      for (const segment of [...segments.values()].slice(0, before)) segment.isNamed = true
    const segment = segments.get(file)
    if (segment === undefined) return
    if (name === 'write' || name === 'writev' || name === 'pwrite64') {
      const lines = (segment.rest + data.slice(0, result)).split('\n')
      segment.rest = lines.pop() ?? ''
      segment.written.push(...lines.map(dealOf))
    }
    if (name === 'fdatasync' || name === 'fsync') {
      fsyncs++
      segment.durable = Math.max(segment.durable, before)
    }
  }
}

function isSegment(path: string): boolean {
  return /\/journal\/\d{12}-[\d-]+\.ndjson$/.test(path)
}

function safeLines({ written, durable }: TracedSegment): string[] {
  return written.slice(0, durable)
}

function resultOf(text: string): number {
  return Number(/\) += (-?\d+)[^"]*$/.exec(text)?.[1] ?? -1)
}

/** The strings among the arguments, one byte a character. */
function dataOf(args: string): string {
  return [...args.matchAll(/"((?:[^"\\]|\\.)*)"/gs)].map(([, text = '']) => unescapeBytes(text)).join('')
}

const escapes: Record<string, string> = { n: '\n', r: '\r', t: '\t', v: '\v', f: '\f' }

function unescapeBytes(text: string): string {
  return text.replace(/\\([0-7]{1,3}|.)/gs, (_, code: string) =>
    /^[0-7]/.test(code) ? String.fromCharCode(Number.parseInt(code, 8)) : (escapes[code] ?? code),
  )
}

function dealOf(text: string): string {
  return /"object":"deal:(\d+)"|%5BID%5D=(\d+)/.exec(text)?.slice(1).join('') ?? ''
}
