import { parseArgs } from 'node:util'
import { createPrinter, type Printer } from './printer.ts'
import { UsageError } from './usage-error.ts'

/** A word with dashes. */
interface Option {
  readonly type: 'boolean' | 'string'
  readonly short?: string
  /** It may be given several times. */
  readonly multiple?: boolean
  readonly default?: string
  /** The name of its value in the help: `PATTERN`. */
  readonly value?: string
  readonly description: string
}

type Options = Readonly<Record<string, Option>>

type ValueOf<O extends Option> = O['type'] extends 'boolean'
  ? boolean
  : O extends { readonly multiple: true }
    ? readonly string[]
    : O extends { readonly default: string }
      ? string
      : string | undefined

type Values<O extends Options> = { readonly [Name in keyof O]: ValueOf<O[Name]> }

export interface Call<O extends Options> {
  readonly options: Values<O>
  /** The words without dashes. */
  readonly args: readonly string[]
  readonly print: Printer
}

interface Spec<O extends Options> {
  readonly name: string
  /** The text after the command's name: `METHOD [KEY=VALUE …]`. */
  readonly usage: string
  /** One line for the list of commands. */
  readonly summary: string
  /** Further sentences for its help, which become one paragraph. */
  readonly notes?: readonly string[]
  readonly options: O
  /** The help puts `b24-receiver` before each. */
  readonly examples: readonly string[]
  /** The maximum number of words without dashes; any number if it is missing. */
  readonly args?: number
  /** @returns the exit code; `undefined` means 0 */
  readonly run: (call: Call<O>) => Promise<number | undefined>
}

export interface Command {
  readonly name: string
  readonly usage: string
  readonly summary: string
  readonly help: string
  readonly run: (args: readonly string[]) => Promise<number>
}

const common = {
  json: { type: 'boolean', description: 'for programs: one line of JSON for each thing' },
  help: { type: 'boolean', short: 'h', description: 'this text' },
} as const satisfies Options

export function defineCommand<const O extends Options>(spec: Spec<O>): Command {
  return {
    name: spec.name,
    usage: `${spec.name} ${spec.usage}`.trimEnd(),
    summary: spec.summary,
    help: helpOf(spec),
    async run(args) {
      const options: Options = { ...spec.options, ...common }
      const parsed = parseArgs({ args: [...args], options, allowPositionals: true })
      const values: Record<string, unknown> = { ...parsed.values }
      for (const [name, { type, multiple = false }] of Object.entries<Option>(spec.options))
        values[name] ??= type === 'boolean' ? false : multiple ? [] : undefined
      if (spec.args !== undefined && parsed.positionals.length > spec.args)
        throw new UsageError(`"${parsed.positionals[spec.args]}" is an unexpected argument`)
      const print = createPrinter({ json: values['json'] === true })
      // `parseArgs` has checked the values against the same object.
      try {
        return (await spec.run({ options: values as Values<O>, args: parsed.positionals, print })) ?? 0
      } finally {
        print.progress('')
      }
    },
  }
}

function helpOf({ name, usage, summary, notes = [], options, examples }: Omit<Spec<Options>, 'run'>): string {
  const rows = Object.entries<Option>({ ...options, ...common }).map(
    ([word, { short, value, description, ...option }]) => [
      `${short === undefined ? '    ' : `-${short}, `}--${word}${option.type === 'boolean' ? '' : ` ${value ?? 'TEXT'}`}`,
      `${description}${option.default === undefined ? '' : ` (${option.default})`}`,
    ],
  )
  const width = Math.max(...rows.map(([left = '']) => left.length))
  return [
    `b24-receiver ${`${name} ${usage}`.trimEnd()}`,
    `\n  ${summary}`,
    ...(notes.length > 0 ? ['', ...wrap(notes.join(' '))] : []),
    '\nOptions',
    ...rows.map(([left = '', right = '']) => `  ${left.padEnd(width)}  ${right}`),
    '\nExamples',
    ...examples.map((example) => `  b24-receiver ${example}`),
    '',
  ].join('\n')
}

/** Wraps a text into lines that fit most terminals. */
function wrap(text: string): string[] {
  const lines = ['']
  for (const word of text.split(' ')) {
    const last = lines.at(-1) ?? ''
    if (last.length + word.length < 110) lines[lines.length - 1] = last === '' ? `  ${word}` : `${last} ${word}`
    else lines.push(`  ${word}`)
  }
  return lines
}
