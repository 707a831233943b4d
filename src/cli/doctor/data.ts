import { accessSync, constants, existsSync } from 'node:fs'
import { open, rm, statfs } from 'node:fs/promises'
import { join } from 'node:path'
import { readSettings } from '../../config/config.ts'
import { journalDir } from '../../journal/segments.ts'
import { codeOf } from '../../lib/error-code.ts'
import { messageOf } from '../../lib/error-text.ts'
import { fileMode, modeForOthers } from '../../lib/private-files.ts'
import { checkQueueFile } from '../../queue/sqlite/integrity.ts'
import { queuePath } from '../../queue/sqlite/queue.ts'
import { explainData, isFollowed, nameOfQueue, openDeliveries } from '../data.ts'
import { type Check, fail, ok, skipped, warn } from './check.ts'

const dataDirOf = () => readSettings(process.env, 'dataDir').dataDir

export async function checkFolder(): Promise<readonly Check[]> {
  const dataDir = dataDirOf()
  if (!existsSync(dataDir))
    return [warn('folder', `${dataDir} is not there`, 'the first start of a receiver makes it; else set DATA_DIR')]
  return [checkAccess(dataDir), checkPrivacy(dataDir), await checkFileSystem(dataDir), await checkRoom(dataDir)]
}

function checkAccess(dataDir: string): Check {
  const files = ['', 'receiver.lock', 'dispatcher.lock', 'dispatch.db'].map((file) => join(dataDir, file))
  const refused = [...files, journalDir(dataDir)].find((path) => existsSync(path) && !mayWrite(path))
  if (refused === undefined) return ok('folder', `${dataDir} may be written`)
  const user = process.getuid?.()
  const advice = `the receiver's user must; if that is this one: chown -R ${user} ${dataDir}`
  return warn('folder', `user ${user} may not write to ${refused}`, advice)
}

function checkPrivacy(dataDir: string): Check {
  const name = 'privacy'
  const mode = modeForOthers(dataDir)
  if (mode === undefined) return ok(name, `${dataDir} is closed to other users of this machine`)
  return warn(
    name,
    `${dataDir} has the mode ${mode}: every user of this machine may enter it, and events hold personal data`,
    `chmod -R o-rwx ${dataDir}; for readers other than the receiver's user see "Who may read it" in docs/operations.md`,
  )
}

function mayWrite(path: string): boolean {
  try {
    accessSync(path, constants.W_OK)
    return true
  } catch {
    return false
  }
}

/** Magic numbers of statfs(2), and why the durability guarantees do not hold on these file systems. */
const fileSystems: ReadonlyMap<number, readonly [name: string, why: string]> = new Map([
  [0x6969, ['NFS', 'its locks and syncs are not those of a local disk']],
  [0xff534d42, ['CIFS', 'its locks and syncs are not those of a local disk']],
  [0xfe534d42, ['SMB', 'its locks and syncs are not those of a local disk']],
  [0x517b, ['SMB', 'its locks and syncs are not those of a local disk']],
  [0x01021997, ['9p', 'its locks and syncs are those of another machine']],
  [0x00c36400, ['Ceph', 'its locks and syncs are not those of a local disk']],
  [0x65735546, ['FUSE', 'whether it keeps what it synced is up to the program behind it']],
  [0x01021994, ['tmpfs', 'it is memory, and gone with the machine']],
  [0x794c7630, ['overlay', 'it is the inside of a container, and gone with it, unless a volume is mounted there']],
])

async function checkFileSystem(dataDir: string): Promise<Check> {
  const name = 'file system'
  const { type } = await statfs(dataDir)
  // The meaning of the number depends on the operating system.
  const found = process.platform === 'linux' ? fileSystems.get(type) : undefined
  if (found === undefined) return ok(name, 'none that is known to break promises')
  return warn(name, `${found[0]}: ${found[1]}`, 'put DATA_DIR on a local disk')
}

const megabyte = 1024 ** 2

async function checkRoom(dataDir: string): Promise<Check> {
  const { bavail, bsize } = await statfs(dataDir)
  const free = Math.floor((bavail * bsize) / megabyte)
  const text = `${free} MB are free`
  if (free >= 1024) return ok('disk', text)
  const advice = 'when it is full, posts are refused and lost: make room, or lower RETENTION_DAYS'
  return (free < 64 ? fail : warn)('disk', text, advice)
}

const samples = 40

/** Measures how long each post waits for the disk, with a separate file and never with the journal. */
export async function checkSync(progress: (text: string) => void): Promise<readonly Check[]> {
  const name = 'fsync'
  const dataDir = dataDirOf()
  if (!existsSync(dataDir)) return [skipped(name, 'there is no folder to try it in')]
  const path = join(dataDir, `doctor-${process.pid}.probe`)
  try {
    const file = await open(path, 'ax', fileMode(path))
    const times: number[] = []
    try {
      for (let sample = 0; sample < samples; sample++) {
        await file.appendFile(`${'x'.repeat(511)}\n`)
        const started = performance.now()
        await file.datasync()
        times.push(performance.now() - started)
        progress(`fsync: ${sample + 1} of ${samples}`)
      }
    } finally {
      await file.close()
    }
    const median = times.sort((a, b) => a - b)[samples / 2] ?? 0
    const text = `${median.toFixed(1)} ms; up to 20 is good, and posts that come together share one`
    if (median < 20) return [ok(name, text)]
    return [
      warn(name, text, 'each post is answered so much later, and Bitrix24 slows down for that: take a faster disk'),
    ]
  } catch (error) {
    if (!['EACCES', 'EROFS', 'EPERM'].includes(codeOf(error) ?? '')) throw error
    return [skipped(name, 'this user may not write there', "run it as the receiver's user")]
  } finally {
    await rm(path, { force: true }).catch(() => undefined)
  }
}

export async function checkQueue(): Promise<readonly Check[]> {
  const name = 'queue'
  const dataDir = dataDirOf()
  if (!isFollowed(dataDir)) return [skipped(name, 'no receiver has run here yet')]
  try {
    if (readSettings(process.env, 'databaseUrl').databaseUrl === undefined) await checkQueueFile(queuePath(dataDir))
    const deliveries = await openDeliveries(dataDir, 'read')
    try {
      const { dead } = await deliveries.state()
      return [ok(name, `${nameOfQueue(dataDir)} is of this version; ${dead} dead`)]
    } finally {
      await deliveries.close()
    }
  } catch (error) {
    return [fail(name, messageOf(explainData(error)))]
  }
}
