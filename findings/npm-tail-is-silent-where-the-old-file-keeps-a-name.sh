#!/usr/bin/env bash
# tail 2.2.6 (npm), with `follow: true`, on Linux.
#
# Guess: `follow` survives a rotation in which the name is replaced by rename(2), as `tail -F` does, whatever else becomes of
#   the old file.
# Behaviour: it does when the old file has no other name. Where the old file keeps one (a hard link: the name for readers
#   beside a numbered segment), nothing is read any more, for good, and no error is raised: the kernel reports neither a
#   move nor a deletion of the old file, and the module looks at nothing else.
#
# Seen: old file without another name: a b c d
#       old file with another name:    a
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm init --yes >/dev/null
npm install --silent --no-audit --no-fund tail@2.2.6
cat > look.cjs <<'JS'
const assert = require('node:assert/strict')
const fs = require('node:fs')
const { setTimeout: sleep } = require('node:timers/promises')
const { Tail } = require('tail')
async function look(folder, keepsAName) {
  fs.mkdirSync(folder)
  const name = `${folder}/log`
  fs.writeFileSync(name, '')
  if (keepsAName) fs.linkSync(name, `${folder}/segment-1`)
  const lines = []
  const tail = new Tail(name, { follow: true })
  tail.on('line', (line) => lines.push(line))
  tail.on('error', (error) => lines.push(String(error)))
  await sleep(300)
  fs.appendFileSync(name, 'a\n')
  await sleep(500)
  fs.writeFileSync(`${folder}/fresh`, '')
  fs.renameSync(`${folder}/fresh`, name)
  await sleep(2500)
  for (const line of 'bcd') {
    fs.appendFileSync(name, `${line}\n`)
    await sleep(600)
  }
  await sleep(1500)
  tail.unwatch()
  return lines.join(' ')
}
;(async () => {
  const [without, withAName] = await Promise.all([look('one', false), look('two', true)])
  console.log('old file without another name:', without)
  console.log('old file with another name:   ', withAName)
  assert.equal(without, 'a b c d')
  assert.equal(withAName, 'a')
})()
JS
node look.cjs
