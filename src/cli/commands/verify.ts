import { verifyJournal } from '../../journal/verify.ts'
import { printable } from '../../lib/printable.ts'
import { defineCommand } from '../command.ts'
import { count } from '../count.ts'
import { findDataDir, nameOfQueue, openDeliveriesIfPossible } from '../data.ts'
import { exitCodes } from '../exit-codes.ts'
import { localTime } from '../local-time.ts'
import { createProgress } from '../progress.ts'

/** Checks whether the journal is as the receiver wrote it. */
export const verify = defineCommand({
  name: 'verify',
  usage: '',
  summary: 'reads all of the journal and says what is wrong with it: lines, ids, order, the position of the handlers',
  notes: [
    'It may be run while the receiver writes. Exit code 1 when something is wrong: each trouble with its file and byte.',
    'A clock that was set back is reported, but is not an error. It takes some 200 MB of memory for a million lines.',
  ],
  options: {},
  examples: ['verify', "verify --json | jq -r 'select(.what).what'"],
  args: 0,
  async run({ print }) {
    const dataDir = findDataDir()
    // The position is read before the segments are listed, because it only moves forward.
    const deliveries = await openDeliveriesIfPossible(dataDir, print)
    const position = await deliveries?.position()
    if (deliveries && position === undefined)
      print.note(`${nameOfQueue(dataDir)} has no position: this journal was not followed yet`)
    await deliveries?.close()
    const verdict = await verifyJournal({
      dataDir,
      position,
      onTrouble: (trouble) => {
        const place = trouble.offset === undefined ? trouble.path : `${trouble.path}:${trouble.offset}`
        return print.result(trouble, printable(`${place}: ${trouble.what}`))
      },
      onRead: await createProgress(dataDir, print),
    })
    const { segments, lines, bytes, first, last, setBack, troubles } = verdict
    const megabytes = (bytes / 1024 ** 2).toFixed(1)
    const times = first === undefined || last === undefined ? '' : `, from ${localTime(first)} to ${localTime(last)}`
    await print.result(verdict, `${count(segments, 'segment')}, ${count(lines, 'line')}, ${megabytes} MB${times}`)
    if (setBack > 0) print.note(`the clock was set back: ${count(setBack, 'line')} older than the one before`)
    if (!print.json) await print.line(troubles === 0 ? 'no trouble' : count(troubles, 'trouble'))
    return troubles === 0 ? exitCodes.done : exitCodes.failed
  },
})
