#!/usr/bin/env bash
# Shows the main job: a real Debian, from a real registry, as a bootable disk and then as a running VM.
set -euo pipefail
cd "$(dirname "$0")/.."
cache=${CACHE:-$HOME/.cache/banger}/demo
port=${PORT:-5000}
banger=$PWD/bin/banger
export BANGER_HOME=${BANGER_HOME:-$cache/home}
mkdir -p "$cache"

show() { printf '\n\033[1m$ %s\033[0m\n' "$*"; "$@"; }
took() { local start=$SECONDS; "$@"; printf -- '-- %d s\n' $((SECONDS - start)); }

echo "== A real Debian with systemd, made by mmdebstrap"
took scripts/debian-image.sh "$cache/debian"
echo "== A kernel"
debs=()
for deb in $(scripts/kernel-deb.sh "$cache/kernel"); do debs+=(--deb "$deb"); done
show "$banger" kernel import "${debs[@]}"

echo; echo "== A real registry on loopback"
trap 'scripts/registry.sh stop "$cache/registry"' EXIT
scripts/registry.sh start "$cache/registry" "$port"
skopeo --insecure-policy copy --quiet --dest-tls-verify=false \
  "oci:$cache/debian/oci:bookworm" "docker://localhost:$port/debian:bookworm"
echo "localhost:$port/debian:bookworm"

show "$banger" image pull "localhost:$port/debian:bookworm"
show "$banger" image ls
show "$banger" vm run --rm debian:bookworm -- cat /etc/os-release
# shellcheck disable=SC2016 # the guest's shell expands this
show "$banger" vm run --rm debian:bookworm -- sh -c 'systemctl is-system-running; uname -a; ls -l /usr/bin/sudo; getcap /usr/bin/ping'
echo; echo "That was a virtual machine, and nothing of it needed root."
