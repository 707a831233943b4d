#!/usr/bin/env bash
# qs 6.17.1 with `throwOnLimitExceeded: true`, the option that makes its silent limits loud.
#
# Guess: `arrayLimit` (20) bounds how many items a list has. One item under a large key, `BOT[777][NAME]=x`, is one item:
#   it stays an object with the key 777, as without the option, and nothing is thrown.
# Behaviour: a single number in brackets that is not below the limit throws "Only 20 elements allowed in an array", though
#   there is one element and it would not have become a list. Bitrix24 names bots by such ids. With `parseArrays: false` the
#   id passes, and yet `a[]=1`, 21 times, throws there, although no array may be made at all.
#
# Seen: without the option   {"BOT":{"777":{"NAME":"x"}}}
#       with it              RangeError: Array limit exceeded. Only 20 elements allowed in an array.
#       and parseArrays off  {"BOT":{"777":{"NAME":"x"}}}
#       21 times a[]         RangeError: Array limit exceeded. Only 20 elements allowed in an array.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm init --yes >/dev/null
npm install --silent --no-audit --no-fund qs@6.17.1
cat > look.mjs <<'JS'
import assert from 'node:assert/strict'
import qs from 'qs'
const look = (text, options) => {
  try {
    return JSON.stringify(qs.parse(text, options))
  } catch (error) {
    return String(error)
  }
}
const id = 'BOT[777][NAME]=x'
const nested = '{"BOT":{"777":{"NAME":"x"}}}'
const refusal = 'RangeError: Array limit exceeded. Only 20 elements allowed in an array.'
const many = Array(21).fill('a[]=1').join('&')
for (const [what, seen, expected] of [
  ['without the option  ', look(id), nested],
  ['with it             ', look(id, { throwOnLimitExceeded: true }), refusal],
  ['and parseArrays off ', look(id, { throwOnLimitExceeded: true, parseArrays: false }), nested],
  ['21 times a[]        ', look(many, { throwOnLimitExceeded: true, parseArrays: false }), refusal],
]) {
  console.log(what, seen)
  assert.equal(seen, expected)
}
JS
node look.mjs
