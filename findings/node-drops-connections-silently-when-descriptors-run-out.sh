#!/bin/sh
# A Node server that has run out of descriptors accepts new connections and closes them, and no event tells it.
#
# Version: Node 24.21.0 (npm "node"), libuv 1.52.1; prlimit of util-linux. Linux.
# Guess: accept() fails with EMFILE, so the server emits 'error' (as libuv's listen callback gets a negative status), or at
# least 'drop'; new connections wait in the backlog until a descriptor is free.
# Behaviour: libuv keeps one descriptor in reserve, closes it at EMFILE, accepts every waiting connection and closes it at
# once. The client sees a connection that was made and then ended, without a byte. The server emits no 'error', no 'drop'
# and no 'connection', and server.listening stays true: nothing in the process can count or log what was lost. 'drop' is
# emitted only for a limit of Node's own, server.maxConnections, which has to be set below the limit of descriptors.
set -eu
command -v prlimit >/dev/null || { echo 'prlimit (util-linux) is missing'; exit 2; }
prlimit --version
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
echo '{ "private": true, "allowScripts": { "node": true } }' >package.json
npm install --silent --no-audit --no-fund --save-exact node@24.21.0
cat >server.mjs <<'JS'
import { createServer } from 'node:http'
const seen = { connection: 0, drop: 0, error: 0 }
const server = createServer((_request, response) => response.end(JSON.stringify({ ...seen, listening: server.listening })))
for (const name of Object.keys(seen)) server.on(name, () => seen[name]++)
if (process.argv[2]) server.maxConnections = Number(process.argv[2])
server.listen(0, '127.0.0.1', () => process.send(server.address().port))
process.on('disconnect', () => process.exit())
JS
cat >try.mjs <<'JS'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { connect } from 'node:net'

async function run(...limit) {
  const command = ['--nofile=64:64', process.execPath, 'server.mjs', ...limit]
  const server = spawn('prlimit', command, { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] })
  const [port] = await once(server, 'message')
  // The first asks at the end; it is open all the while.
  const first = connect(port, '127.0.0.1').setEncoding('utf8')
  await once(first, 'connect')
  let made = 0
  let ended = 0
  const others = []
  for (let index = 0; index < 100; index++) {
    const socket = connect(port, '127.0.0.1')
    others.push(socket)
    // Ended and reset are both: it was closed without a byte.
    socket.on('connect', () => made++).on('end', () => ended++).on('error', () => ended++).resume()
  }
  // Of 64 descriptors some are Node's own, so more than 36 of the 100 connections cannot stay.
  while (made < 100 || ended <= 36) await new Promise((resolve) => setTimeout(resolve, 20))
  let answer = ''
  first.on('data', (text) => (answer += text))
  first.write('GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n')
  await once(first, 'end')
  const seen = JSON.parse(answer.slice(answer.indexOf('\r\n\r\n') + 4))
  for (const socket of others) socket.destroy()
  server.disconnect()
  await once(server, 'exit')
  return { made, ended, ...seen }
}

console.log(`Node ${process.versions.node}, libuv ${process.versions.uv}`)
const silent = await run()
console.log('out of descriptors:', silent)
const told = await run('20')
console.log('with maxConnections below them:', told)
const isSilent = silent.error === 0 && silent.drop === 0 && silent.connection < 64 && silent.listening
process.exit(isSilent && told.drop > 36 ? 0 : 1)
JS
timeout 60 ./node_modules/.bin/node try.mjs
