#!/usr/bin/env bash
# registry.sh start DIR PORT   starts Debian's docker-registry on loopback, with its storage in DIR; PORT 0 is a free
#                              one, which is printed
# registry.sh stop DIR         stops it
set -euo pipefail

die() { echo "registry.sh: $*" >&2; exit 1; }

# running DIR: the process of the pid file is this registry, and not one that got its number later.
running() { [ -f "$1/pid" ] && grep -qsF "$1/config.yml" "/proc/$(cat "$1/pid")/cmdline"; }

answers() { curl -fsS --noproxy '*' --max-time 5 -o /dev/null "http://127.0.0.1:$1/v2/" 2>/dev/null; }

# taken PORT: something listens there. The redirection fails where nothing does.
taken() { (: <"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

free_port() {
  local port
  for _ in $(seq 50); do
    port=$((20000 + RANDOM))
    if ! taken "$port"; then echo "$port"; return; fi
  done
  die "no free port found"
}

start() {
  local dir=$1 port=$2
  if running "$dir"; then
    [ "$port" = 0 ] || [ "$port" = "$(cat "$dir/port")" ] || die "it runs on port $(cat "$dir/port") already"
    if [ "$port" = 0 ]; then cat "$dir/port"; fi
    return
  fi
  if [ "$port" = 0 ]; then port=$(free_port); echo "$port"; fi
  if taken "$port"; then die "port $port is taken; choose another"; fi
  mkdir -p "$dir/storage"
  cat >"$dir/config.yml" <<YAML
version: 0.1
log: {level: error, accesslog: {disabled: true}}
storage:
  filesystem: {rootdirectory: "$dir/storage"}
  delete: {enabled: true}
http: {addr: "127.0.0.1:$port"}
YAML
  # A session of its own, so that the end of the terminal is not that of the registry.
  setsid docker-registry serve "$dir/config.yml" >"$dir/log" 2>&1 </dev/null &
  echo $! >"$dir/pid"
  echo "$port" >"$dir/port"
  for _ in $(seq 300); do
    if answers "$port"; then return; fi
    kill -0 "$(cat "$dir/pid")" 2>/dev/null || die "the registry did not start: $(tail -3 "$dir/log")"
    sleep 0.1
  done
  stop "$dir"
  die "the registry does not answer: $(tail -3 "$dir/log")"
}

stop() {
  if running "$1"; then
    kill "$(cat "$1/pid")"
    for _ in $(seq 50); do
      running "$1" || break
      sleep 0.1
    done
  fi
  rm -f "$1/pid" "$1/port"
}

dir=$(realpath -m "${2:?usage: registry.sh start DIR PORT | stop DIR}")
case "$1" in
  start) start "$dir" "${3:?PORT}" ;;
  stop) stop "$dir" ;;
  *) die "usage: registry.sh start DIR PORT | stop DIR" ;;
esac
