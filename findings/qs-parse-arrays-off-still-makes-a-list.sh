#!/usr/bin/env bash
# qs 6.17.1 with `parseArrays: false` and `duplicates: 'last'`.
#
# Guess: with arrays turned off no list comes out, and with `duplicates: 'last'` the later of `a=1` and `a[b]=2` wins, as it
#   does in PHP, whose $_POST would be {"a":{"b":"2"}}.
# Behaviour: a text and an object under one name become a list of both, whatever the two options say, and 'first' gives
#   the same. Code that tells "text" from "object" by typeof meets a list, and neither value has won.
#
# Seen: duplicates last   {"a":["1",{"b":"2"}]}
#       duplicates first  {"a":["1",{"b":"2"}]}
#       other order       {"a":[{"b":"2"},"1"]}
#       two texts, last   {"a":"2"}
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm init --yes >/dev/null
npm install --silent --no-audit --no-fund qs@6.17.1
cat > look.mjs <<'JS'
import assert from 'node:assert/strict'
import qs from 'qs'
const look = (text, duplicates) => JSON.stringify(qs.parse(text, { parseArrays: false, duplicates }))
for (const [what, seen, expected] of [
  ['duplicates last  ', look('a=1&a[b]=2', 'last'), '{"a":["1",{"b":"2"}]}'],
  ['duplicates first ', look('a=1&a[b]=2', 'first'), '{"a":["1",{"b":"2"}]}'],
  ['other order      ', look('a[b]=2&a=1', 'last'), '{"a":[{"b":"2"},"1"]}'],
  ['two texts, last  ', look('a=1&a=2', 'last'), '{"a":"2"}'],
]) {
  console.log(what, seen)
  assert.equal(seen, expected)
}
JS
node look.mjs
