#!/usr/bin/env bash
# co-body 6.2.0, which reads the forms of Koa and Strapi.
#
# Guess: a form with more than 1,000 fields is refused with 413, as Express' body-parser does ("too many parameters"), since
#   co-body too has a `limit` and answers 413 beyond it.
# Behaviour: the first 1,000 fields are taken and the rest is dropped, with no error and no mark. Bitrix24 sends `auth`
#   last, so the token is what goes first.
#
# Seen: fields sent 1501, fields read 1000, the last one: undefined
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm init --yes >/dev/null
npm install --silent --no-audit --no-fund co-body@6.2.0 qs@6.17.1
cat > look.mjs <<'JS'
import assert from 'node:assert/strict'
import { Readable } from 'node:stream'
import parse from 'co-body'
const body = [...Array.from({ length: 1500 }, (_, index) => `k${index}=v`), 'last=1'].join('&')
const request = Readable.from([Buffer.from(body)])
request.headers = { 'content-type': 'application/x-www-form-urlencoded' }
const form = await parse.form(request)
console.log(`fields sent 1501, fields read ${Object.keys(form).length}, the last one: ${form.last}`)
assert.equal(Object.keys(form).length, 1000)
assert.equal(form.last, undefined)
JS
node look.mjs
