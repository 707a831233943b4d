#!/bin/sh
# Node 24.21.0, node:readline, reading lines of JSON that JSON.stringify wrote.
#
# The good guess: a line ends at \n, \r or \r\n, as the documentation of the event 'line' says
# (https://nodejs.org/docs/latest-v24.x/api/readline.html#event-line). JSON.stringify escapes all of these, so each line of
# NDJSON comes out whole.
#
# The behaviour: a line also ends at U+2028 and at U+2029. JSON.stringify leaves both as they are inside of a string, where
# JSON allows them, so one valid line of NDJSON comes out as three that are no JSON. filehandle.readLines() does the same.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm init --yes >/dev/null
npm install --silent --no-fund --no-audit --save-exact --allow-scripts=node node@24.21.0 >/dev/null 2>&1 ||
  npm install --silent --no-fund --no-audit --save-exact node@24.21.0 >/dev/null
node=node_modules/.bin/node
[ "$($node --version)" = v24.21.0 ] || { echo "another Node: $($node --version)"; exit 1; }

cat >look.mjs <<'JS'
import { open, writeFile } from 'node:fs/promises'
import { createReadStream } from 'node:fs'
import { createInterface } from 'node:readline'

await writeFile('events.ndjson', `${JSON.stringify({ note: 'one\u2028two\u2029three' })}\n${JSON.stringify({ note: 'four' })}\n`)
const collect = async (lines) => {
  const found = []
  for await (const line of lines) found.push(JSON.stringify(line))
  return found
}
const byReadline = await collect(createInterface({ input: createReadStream('events.ndjson'), crlfDelay: Infinity }))
const byHandle = await collect((await open('events.ndjson')).readLines())
console.log(`2 lines of NDJSON are ${byReadline.length} of node:readline: ${byReadline.join(' | ')}`)
console.log(`and ${byHandle.length} of filehandle.readLines()`)
process.exit(byReadline.length === 4 && byHandle.length === 4 ? 0 : 1)
JS
$node look.mjs
