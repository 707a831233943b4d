#!/bin/sh
# fetch sends a POST a second time when it is answered with 421 Misdirected Request.
#
# Versions: Node 24.21.0 (npm "node"), whose fetch is undici 7.29.1, and npm undici 8.13.1.
# Guess: with `redirect: 'manual'` fetch sends exactly one request for one call, whatever the status; sending again is
# left to the caller, as with 408, 425, 429 and 503.
# Behaviour: 421 makes it open another connection and send the whole POST again; the caller sees one answer. The Fetch
# standard asks for it (HTTP-network-or-cache fetch), undici's `request` does not do it. Proxies answer 421 when a
# connection was opened for another host name.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
echo '{ "private": true, "allowScripts": { "node": true } }' >package.json
npm install --silent --no-audit --no-fund --save-exact node@24.21.0 undici@8.13.1
cat >try.mjs <<'JS'
import { createServer } from 'node:http'
import * as undici from 'undici'

async function postsFor(status, send) {
  let posts = 0
  const server = createServer((request, response) => {
    posts++
    request.resume().on('end', () => response.writeHead(status).end('{}'))
  })
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
  await send(`http://127.0.0.1:${server.address().port}/`)
  server.closeAllConnections()
  server.close()
  return posts
}

const options = { method: 'POST', body: '{}' }
const ways = {
  "Node's fetch": async (url) => (await fetch(url, { ...options, redirect: 'manual' })).text(),
  "undici's fetch": async (url) => (await undici.fetch(url, { ...options, redirect: 'manual' })).text(),
  "undici's request": async (url) => (await undici.request(url, options)).body.text(),
}
console.log(`Node ${process.versions.node}, its undici ${process.versions.undici}`)
const found = {}
for (const [name, send] of Object.entries(ways)) {
  found[name] = []
  for (const status of [200, 408, 421, 425, 429, 503]) found[name].push(`${status}: ${await postsFor(status, send)}`)
  console.log(`${name}: posts sent for one call, by status: ${found[name].join(', ')}`)
}
const once = '200: 1, 408: 1, 421: 1, 425: 1, 429: 1, 503: 1'
const twice = once.replace('421: 1', '421: 2')
const expected = [twice, twice, once]
process.exit(Object.values(found).every((counts, at) => counts.join(', ') === expected[at]) ? 0 : 1)
JS
./node_modules/.bin/node try.mjs
