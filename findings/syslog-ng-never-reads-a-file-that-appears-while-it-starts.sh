#!/usr/bin/env bash
# syslog-ng 3.38.1 (Debian's syslog-ng-core 3.38.1-5+deb12u1), `wildcard-file()` with `monitor-method("poll")` as a source.
#
# Guess: it lists the folder when it starts and once a second afterwards, and reads every file whose name was not there before. So a
#   file that is created during the start is read a second later at the latest.
# Behaviour: it lists the folder twice when it starts, first to read what is there, then to remember what is there. A file that appears
#   between the two is remembered and never read, however long it stays and grows. A restart of syslog-ng reads it from its beginning.
#   With many files in the folder the time between the two lists is long: hundreds or thousands of files are missed.
#
# Seen: 1445, 828 and 3323 of 6000 files that were created during the start were never read; 0 after a restart
set -euo pipefail
version=$(dpkg-query -W -f '${Version}' syslog-ng-core)
echo "syslog-ng-core $version"
[[ $version == 3.38.1-* ]] || { echo "another version than 3.38.1"; exit 2; }
folder=$(mktemp -d)
pid=
trap '[ -z "$pid" ] || kill "$pid" 2>/dev/null || true; sleep 0.5; rm -rf "$folder"' EXIT
cd "$folder"
mkdir many
cat >syslog-ng.conf <<CONF
@version: 3.38
source many {
  wildcard-file(base-dir("$folder/many") filename-pattern("*") monitor-method("poll") follow-freq(1)
    max-files(20000) log-iw-size(2000000) flags(no-parse));
};
destination out { file("$folder/out" template("\${MESSAGE}\n")); };
log { source(many); destination(out); };
CONF
start() {
  syslog-ng --foreground --no-caps --cfgfile="$folder/syslog-ng.conf" --persist-file="$folder/persist" \
    --pidfile="$folder/pid" --control="$folder/control" 2>/dev/null &
  pid=$!
}
for file in $(seq 3000); do echo "old $file" >"many/old$file"; done
: >out
start
for file in $(seq 6000); do echo "new $file" >"many/new$file"; done
unread() { echo $((6000 - $(grep -c '^new ' out || true))); }
until grep -q '^new ' out; do sleep 1; done
before=-1
# It lists the folder every second: it has read what it will read when nothing has come for ten.
while [ "$(unread)" != "$before" ]; do before=$(unread); sleep 10; done
kill "$pid"; wait "$pid" 2>/dev/null || true
start
for _ in $(seq 120); do
  after=$(unread)
  ((after == 0)) && break
  sleep 1
done
echo "$before of 6000 files that were created during the start were never read; $after after a restart"
((before > 0 && after == 0))
