#!/usr/bin/env bash
# syslog-ng 3.38.1 (Debian's syslog-ng-core 3.38.1-5+deb12u1), `file()` as a source.
#
# Guess: file() on a name that is replaced by rename(2), the old file keeping another name, reads every file that has the name for
#   longer than its second between two looks (follow-freq, 1 by default).
# Behaviour: it skips whole files that live for 1.2 seconds, about every fourth. wildcard-file() with the same follow-freq, on the folder of the other
#   names, reads all of them.
#
# Seen: file():           2 or 3 of 12 files were never read
#       wildcard-file():  0 of 12 files were never read
set -euo pipefail
version=$(dpkg-query -W -f '${Version}' syslog-ng-core)
echo "syslog-ng-core $version"
[[ $version == 3.38.1-* ]] || { echo "another version than 3.38.1"; exit 2; }
folder=$(mktemp -d)
pid=
trap '[ -z "$pid" ] || kill "$pid" 2>/dev/null || true; sleep 0.5; rm -rf "$folder"' EXIT
cd "$folder"
mkdir segments
: >log
cat >syslog-ng.conf <<EOF
@version: 3.38
source one { file("$folder/log" follow-freq(1) flags(no-parse)); };
source all { wildcard-file(base-dir("$folder/segments") filename-pattern("*") monitor-method("poll") follow-freq(1) flags(no-parse)); };
destination one { file("$folder/one" template("\${MESSAGE}\n")); };
destination all { file("$folder/all" template("\${MESSAGE}\n")); };
log { source(one); destination(one); };
log { source(all); destination(all); };
EOF
syslog-ng --foreground --no-caps --cfgfile="$folder/syslog-ng.conf" --persist-file="$folder/persist" \
  --pidfile="$folder/pid" --control="$folder/control" 2>/dev/null &
pid=$!
sleep 3
for file in $(seq 12); do
  : >"segments/$file"
  ln "segments/$file" fresh
  mv fresh log
  for line in $(seq 5); do
    echo "file $file line $line" >>"segments/$file"
    sleep 0.24
  done
done
sleep 4
unread() { echo $((12 - $(grep -o '^file [0-9]*' "$1" | sort -u | wc -l))); }
one=$(unread one)
all=$(unread all)
echo "file():           $one of 12 files were never read"
echo "wildcard-file():  $all of 12 files were never read"
((one > 0 && all == 0))
