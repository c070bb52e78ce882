#!/usr/bin/env bash
# Measures banger's pull of an image whose layers are there already against what one does without banger: umoci unpacks
# the image and mke2fs copies the tree, under fakeroot, so that owners survive. Interleaved runs; medians and ratio.
set -euo pipefail
cd "$(dirname "$0")/.."
cache=${CACHE:-$HOME/.cache/banger}/test
runs=${RUNS:-7}
scripts/deps.sh test
command -v fakeroot >/dev/null || { echo "bench: install fakeroot: sudo apt-get install fakeroot" >&2; exit 1; }
scripts/debian-image.sh "$cache/debian"
image=$cache/debian/oci:bookworm
work=$(mktemp -d)
trap 'chmod -R u+rwX "$work"; rm -rf "$work"' EXIT
export BANGER_HOME=$work/home PATH=$PATH:/usr/sbin

now() { date +%s%N; }
timed() { # NAME COMMAND…: adds the milliseconds to $work/NAME
  local name=$1 start; shift
  start=$(now); "$@" >/dev/null 2>&1
  echo $((($(now) - start) / 1000000)) >>"$work/$name"
}
ours() { bin/banger image pull "oci:$image" --name bench --no-guest; }
rival() {
  umoci unpack --rootless --image "$image" "$work/bundle"
  truncate -s 1343M "$work/rival.ext4"
  fakeroot mke2fs -q -F -t ext4 -d "$work/bundle/rootfs" "$work/rival.ext4"
}
median() { sort -n "$work/$1" | sed -n "$(((runs + 1) / 2))p"; }

ours >/dev/null 2>&1 # the layers are in the layer store from here on
for _ in $(seq "$runs"); do
  bin/banger image rm bench >/dev/null
  timed ours ours
  chmod -R u+rwX "$work/bundle" 2>/dev/null || true; rm -rf "$work/bundle" "$work/rival.ext4"
  timed rival rival
done
ours=$(median ours) rival=$(median rival)
printf 'banger image pull (layers cached)        %6d ms\n' "$ours"
printf 'umoci unpack + fakeroot mke2fs -d        %6d ms\n' "$rival"
awk -v a="$ours" -v b="$rival" 'BEGIN { printf "ratio                                    %9.2f\n", a / b }'
