#!/usr/bin/env bash
# Node 24.21.0 (npm package `node`), Linux.
#
# A service manager (systemd socket activation) hands a listening socket over as descriptor 3, with a queue for 3,000
# connections (Backlog=3000).
#
# The good guess: `server.listen({ fd: 3, backlog: 3000 })` has that queue, for `backlog` is a documented option of
# `listen(options)`; and without the option the socket keeps the queue that it was made with.
#
# The behaviour: with a descriptor the option is not read. Node calls listen(2) again with its default, 511, and so shortens
# the queue of a socket that somebody else made. Only the second argument counts: `server.listen({ fd: 3 }, 3000)`. A
# framework that passes one object, as Fastify's `app.listen({ fd, backlog })` does, cannot say it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm install --silent --no-audit --no-fund --allow-scripts=node node@24.21.0 >/dev/null 2>&1 || npm install --silent --no-audit --no-fund node@24.21.0 >/dev/null
node=node_modules/node/bin/node
[ "$("$node" --version)" = v24.21.0 ]

cat >parent.cjs <<'JS'
// Stands for the service manager: makes the socket, and hands it over as descriptor 3.
const { createServer } = require('node:net')
const { spawnSync } = require('node:child_process')
const queue = (port) => spawnSync('ss', ['-Hltn', `sport = :${port}`], { encoding: 'utf8' }).stdout.trim().split(/\s+/)[2]
const made = createServer().listen({ port: 0, host: '127.0.0.1', backlog: 3000 }, () => {
  const { port } = made.address()
  console.log(`made: ${queue(port)}`)
  for (const args of ['{ fd: 3, backlog: 3000 }', '{ fd: 3 }', '{ fd: 3 }, 3000']) {
    const script = `const s = require('node:net').createServer().listen(${args}); s.on('listening', () => process.exit())`
    spawnSync(process.execPath, ['-e', script], { stdio: ['ignore', 'inherit', 'inherit', made._handle.fd] })
    console.log(`listen(${args}): ${queue(port)}`)
  }
  process.exit()
})
JS
seen=$("$node" parent.cjs)
echo "$seen"
[ "$seen" = 'made: 3000
listen({ fd: 3, backlog: 3000 }): 511
listen({ fd: 3 }): 511
listen({ fd: 3 }, 3000): 3000' ]
