#!/usr/bin/env bash
# GNU tail 9.1 (Debian's coreutils 9.1-1), on Linux with inotify.
#
# Guess: `tail -F name` that begins before the name exists waits for it, says "has appeared", and from then on follows it as
#   one does that began after: by inotify, through every rotation by rename(2).
# Behaviour: where no file that it was given exists at its start, it never uses inotify, also not once the file is there. It
#   looks once a second for ever, so files that came and went between two looks are lost, without a word. Another file on
#   its command line that does exist is enough for inotify, and nothing is lost.
#
# Seen: started before the name:                     lost some of 200
#       started after:                               lost 0 of 200
#       started before, beside a file that exists:   lost 0 of 200
set -euo pipefail
version=$(dpkg-query -W -f '${Version}' coreutils)
echo "coreutils $version"
[[ $version == 9.1-* ]] || { echo "another version than 9.1"; exit 2; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"

# 20 files of 10 lines, 100 ms apart, each of which keeps a second name and replaces the one before by rename(2).
write() {
  for file in $(seq 20); do
    : >"$1/segment-$file"
    ln "$1/segment-$file" "$1/fresh"
    mv "$1/fresh" "$1/log"
    for line in $(seq 10); do echo "line $file $line" >>"$1/segment-$file"; done
    sleep 0.1
  done
}

# name, whether the log exists first, what else tail is given
look() {
  mkdir "$1"
  [ "$2" = after ] && : >"$1/log"
  tail -q -n +1 -F "$1/log" "${@:3}" >"$1/shown" 2>/dev/null &
  local pid=$!
  sleep 1
  write "$1"
  sleep 3
  kill "$pid"
  wait "$pid" 2>/dev/null || true
  lost=$((200 - $(grep -c '^line' "$1/shown")))
}

look one before
before=$lost
look two after
after=$lost
: >other
look three before other
beside=$lost
echo "started before the name:                     lost $before of 200"
echo "started after:                               lost $after of 200"
echo "started before, beside a file that exists:   lost $beside of 200"
((before > 0 && after == 0 && beside == 0))
