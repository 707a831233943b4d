#!/usr/bin/env bash
# sonic-boom 5.0.2, the stream under pino, with its default `minLength: 0`.
#
# Guess: `flush(callback)` calls back once what was written before is on disk. Its README says: the callback is called once
#   all pending writes have completed and the file has been fsynced.
# Behaviour: a line whose write() has ended, and which no fsync has followed yet, is not "pending". flush() then calls back
#   at once, inside the call, and no fsync happens. With `minLength: 1` the same flush() does one fsync first. So whether
#   flush() means "on disk" hangs on how busy the stream is: an idle log, whose last line was just written, gets none.
#
# Seen: minLength 0: called back inside flush(): true, fsyncs after the write: 0
#       minLength 1: called back inside flush(): false, fsyncs after the write: 1
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm init --yes >/dev/null
npm install --silent --no-audit --no-fund sonic-boom@5.0.2
cat > look.cjs <<'JS'
const assert = require('node:assert/strict')
const fs = require('node:fs')
let syncs = 0
const { fsync } = fs
fs.fsync = (fd, callback) => fsync(fd, (...result) => { syncs++; callback(...result) })
const SonicBoom = require('sonic-boom')
function look(minLength) {
  return new Promise((resolve) => {
    const stream = new SonicBoom({ dest: `${minLength}.log`, minLength, sync: false })
    // The write has ended, and nothing is left in memory.
    stream.once('drain', () => setImmediate(() => {
      syncs = 0
      let isInside = true
      stream.flush(() => resolve({ isInside, syncs }))
      isInside = false
    }))
    stream.write('line\n')
    // The buffer is written at once only where there is no minimum.
    if (minLength > 0) stream.flush()
  })
}
;(async () => {
  for (const [minLength, expected] of [
    [0, { isInside: true, syncs: 0 }],
    [1, { isInside: false, syncs: 1 }],
  ]) {
    const seen = await look(minLength)
    console.log(`minLength ${minLength}: called back inside flush(): ${seen.isInside}, fsyncs after the write: ${seen.syncs}`)
    assert.deepEqual(seen, expected)
  }
})()
JS
node look.cjs
