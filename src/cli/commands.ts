import type { Command } from './command.ts'

/**
 * In the order of the help. Each command is loaded on demand, because loading all of them takes longer than most
 * commands run.
 */
const loaders: ReadonlyMap<string, () => Promise<Command>> = new Map([
  ['tail', async () => (await import('./commands/tail.ts')).tail],
  ['events', async () => (await import('./commands/events.ts')).events],
  ['show', async () => (await import('./commands/show.ts')).show],
  ['status', async () => (await import('./commands/status.ts')).status],
  ['doctor', async () => (await import('./commands/doctor.ts')).doctor],
  ['replay', async () => (await import('./commands/replay.ts')).replay],
  ['dead', async () => (await import('./commands/dead.ts')).dead],
  ['handlers', async () => (await import('./commands/handlers.ts')).handlers],
  ['reload', async () => (await import('./commands/reload.ts')).reload],
  ['verify', async () => (await import('./commands/verify.ts')).verify],
  ['repair', async () => (await import('./commands/repair.ts')).repair],
  ['erase', async () => (await import('./commands/erase.ts')).erase],
  ['try', async () => (await import('./commands/try.ts')).tryCommand],
  ['send', async () => (await import('./commands/send.ts')).send],
  ['call', async () => (await import('./commands/call.ts')).call],
  ['import', async () => (await import('./commands/import.ts')).importCommand],
  ['backfill', async () => (await import('./commands/backfill.ts')).backfillCommand],
  ['worker', async () => (await import('./commands/worker.ts')).worker],
  ['migrate', async () => (await import('./commands/migrate.ts')).migrate],
  ['demo', async () => (await import('./commands/demo.ts')).demo],
])

export async function findCommand(name: string): Promise<Command | undefined> {
  return loaders.get(name)?.()
}

export function loadCommands(): Promise<readonly Command[]> {
  return Promise.all([...loaders.values()].map((load) => load()))
}

export function helpOf(commands: readonly Command[]): string {
  const width = Math.max(...commands.map(({ usage }) => usage.length))
  return `b24-receiver: the tools of bitrix24-webhook-receiver

${commands.map(({ usage, summary }) => `  b24-receiver ${usage.padEnd(width)}  ${summary}`).join('\n')}

  b24-receiver COMMAND --help   its options, with examples
  b24-receiver --version

Settings come from the environment and from .env in this folder, as for the receiver. DATA_DIR says where its data is. Every
command takes --json. Exit codes: 0 done; 1 it failed, or what it looked at is not well; 64 the arguments are wrong; 78 the
settings are wrong.
`
}
