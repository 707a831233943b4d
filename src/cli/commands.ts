import { call } from './call.ts'
import type { Command } from './command.ts'
import { dead } from './dead.ts'
import { demo } from './demo.ts'
import { doctor } from './doctor.ts'
import { events } from './events.ts'
import { handlers } from './handlers.ts'
import { importCommand } from './import.ts'
import { move } from './move.ts'
import { reload } from './reload.ts'
import { replay } from './replay.ts'
import { send } from './send.ts'
import { show } from './show.ts'
import { status } from './status.ts'
import { sweepCommand } from './sweep.ts'
import { tail } from './tail.ts'
import { tryCommand } from './try.ts'
import { verify } from './verify.ts'
import { work } from './work.ts'

/** In the order of the help. */
export const commands: readonly Command[] = [
  tail,
  events,
  show,
  status,
  doctor,
  replay,
  dead,
  handlers,
  reload,
  verify,
  tryCommand,
  send,
  call,
  importCommand,
  sweepCommand,
  work,
  move,
  demo,
]

const width = Math.max(...commands.map(({ usage }) => usage.length))

export const help = `b24-receiver: the tools of bitrix24-webhook-receiver

${commands.map(({ usage, summary }) => `  b24-receiver ${usage.padEnd(width)}  ${summary}`).join('\n')}

  b24-receiver COMMAND --help   its options, with examples
  b24-receiver --version

Settings come from the environment and from .env in this folder, as for the receiver. DATA_DIR says where its data is. Every
command takes --json. Exit codes: 0 done; 1 it failed, or what it looked at is not well; 64 the words are wrong; 78 the
settings are wrong.
`
