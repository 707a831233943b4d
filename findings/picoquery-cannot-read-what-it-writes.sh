#!/usr/bin/env bash
# picoquery 2.5.0, which nests keys as PHP does with { nesting: true, nestingSyntax: 'index' }.
#
# Guess: a key is decoded first and then split at its brackets, so `a%5Bb%5D=1` and `a[b]=1` read alike, and
#   parse(stringify(x)) gives x.
# Behaviour: only literal brackets nest. A key whose brackets are percent-encoded stays flat. `stringify` encodes them, and
#   so do PHP's http_build_query and every browser: picoquery reads neither their bodies nor its own. No error is raised.
#
# Seen: {"a":{"b":"1"}}   literal brackets
#       {"a[b]":"1"}      encoded brackets
#       a%5Bb%5D=1 -> {"a[b]":"1"}   its own output, read again
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm init --yes >/dev/null
npm install --silent --no-audit --no-fund picoquery@2.5.0
cat > look.mjs <<'JS'
import assert from 'node:assert/strict'
import { parse, stringify } from 'picoquery'
const options = { nesting: true, nestingSyntax: 'index' }
const plain = (value) => JSON.parse(JSON.stringify(value))
const literal = plain(parse('a[b]=1', options))
const encoded = plain(parse('a%5Bb%5D=1', options))
const written = stringify({ a: { b: '1' } }, options)
const again = plain(parse(written, options))
console.log(JSON.stringify(literal))
console.log(JSON.stringify(encoded))
console.log(written, '->', JSON.stringify(again))
assert.deepEqual(literal, { a: { b: '1' } })
assert.deepEqual(encoded, { 'a[b]': '1' })
assert.equal(written, 'a%5Bb%5D=1')
assert.deepEqual(again, { 'a[b]': '1' })
JS
node look.mjs
