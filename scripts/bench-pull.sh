#!/usr/bin/env bash
# Measures banger's pull of an image whose layers are there already against what one does without banger: umoci unpacks
# the image and mke2fs copies the tree, under fakeroot, so that owners survive. Interleaved runs; medians and ratio.
set -euo pipefail
cd "$(dirname "$0")/.."
cache=${CACHE:-$HOME/.cache/banger}/test
runs=${RUNS:-7}
scripts/deps.sh bench
scripts/debian-image.sh "$cache/debian"
image=$cache/debian/oci:bookworm
work=${WORK:-} # a directory that the caller removes
if [ -z "$work" ]; then
  work=$(mktemp -d)
  trap 'chmod -R u+rwX "$work"; rm -rf "$work"' EXIT
fi
export BANGER_HOME=$work/home PATH=$PATH:/usr/sbin

now() { date +%s%N; }
timed() { # NAME COMMAND…: adds the milliseconds to $work/NAME
  local name=$1 start; shift
  start=$(now); "$@" >/dev/null 2>&1
  echo $((($(now) - start) / 1000000)) >>"$work/$name"
}
ours() { bin/banger image pull "oci:$image" --name bench --no-guest; }
rival() { # BUNDLE
  umoci unpack --rootless --image "$image" "$1"
  truncate -s 1343M "$work/rival.ext4"
  fakeroot mke2fs -q -F -t ext4 -d "$1/rootfs" "$work/rival.ext4"
}
median() { sort -n "$work/$1" | sed -n "$(((runs + 1) / 2))p"; }

ours >/dev/null 2>&1 # the layers are in the layer store from here on
for run in $(seq "$runs"); do
  bin/banger image rm bench >/dev/null
  timed ours ours
  # The bundles stay until the end: ext4 is slow to make files where many have just been removed.
  rm -f "$work/rival.ext4"
  timed rival rival "$work/bundle-$run"
done
ours=$(median ours) rival=$(median rival)
printf 'banger image pull (layers cached)        %6d ms\n' "$ours"
printf 'umoci unpack + fakeroot mke2fs -d        %6d ms\n' "$rival"
awk -v a="$ours" -v b="$rival" 'BEGIN { printf "ratio                                    %9.2f\n", a / b }'
