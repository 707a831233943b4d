import { cluster } from './cluster.ts'
import { dispatcher } from './deliveries.ts'
import { forms } from './forms.ts'
import { burst, million, slowDisk, stalledDisk } from './growth.ts'
import { proxies } from './proxies.ts'
import { start } from './start.ts'
import { say } from './table.ts'
import { throughput } from './throughput.ts'
import { tools } from './tools.ts'
import { types } from './types.ts'
import { versions } from './versions.ts'

const benches = new Map([
  ['throughput', throughput],
  ['million', million],
  ['burst', burst],
  ['dispatcher', dispatcher],
  ['cluster', cluster],
  ['forms', forms],
  ['start', start],
  ['slow-disk', slowDisk],
  ['stalled-disk', stalledDisk],
  ['tools', tools],
  ['types', types],
  ['proxies', proxies],
  ['versions', versions],
])

const names = process.argv.slice(2)
const wanted = names.length === 0 ? ['throughput'] : names.includes('all') ? [...benches.keys()] : names
const unknown = wanted.filter((name) => !benches.has(name))
if (process.platform !== 'linux' || unknown.length > 0) {
  say(
    unknown.length > 0
      ? `There is no bench "${unknown.join('", "')}"; there are all, ${[...benches.keys()].join(', ')}`
      : 'The benches need Linux: they pin processes to cores, and read /proc',
  )
  process.exit(64)
}
for (const name of wanted) await benches.get(name)?.()
process.exit(0)
