#!/usr/bin/env bash
# Measures how long banger takes from a reference to a bootable image, cold and with layers that are there already,
# against decompressing the layers and nothing else, and against what one does without banger: skopeo, umoci and
# mkfs.ext4 -d. The image is in a registry on loopback. RUNS interleaved runs (5) of each; tables of medians in Markdown.
# With arguments it makes only those tables: igzip, go, zstd, rivals, shared.
set -euo pipefail
cd "$(dirname "$0")/.."
cache=${CACHE:-$HOME/.cache/banger}/bench
runs=${RUNS:-5}
scripts/deps.sh bench
# e2fsprogs are not on an ordinary user's PATH.
export PATH=$PATH:/usr/sbin:/sbin
mkdir -p "$cache"
cache=$(realpath "$cache")
# WORK is a directory that the caller removes.
work=${WORK:-}
if [ -z "$work" ]; then
  work=$(mktemp -d "$cache/run-XXXXXX")
  trap 'scripts/registry.sh stop "$work/registry"; chmod -R u+rwX "$work"; rm -rf "$work"' EXIT
else
  trap 'scripts/registry.sh stop "$work/registry"' EXIT
fi
(cd bench && ${GO:-go} test ./puller ./race >&2 && CGO_ENABLED=0 ${GO:-go} build -trimpath -o "$work/bench" .)
unset BANGER_GUNZIP

scripts/dev-image.sh "$cache/dev"
registry=127.0.0.1:$(scripts/registry.sh start "$work/registry" 0)
push() { # LAYOUT:TAG NAME
  skopeo copy --quiet --dest-tls-verify=false "oci:$1" "docker://$registry/$2:bookworm" >&2
}
# The same layers in zstd.
zstd_layout() {
  local n=0 digest tars=()
  for digest in $("$work/bench" layers "$cache/dev/oci"); do
    n=$((n + 1)); igzip -dc "$digest" >"$work/$n.tar"; tars+=("$work/$n.tar")
  done
  COMPRESS='zstd -q -3' scripts/oci-layout.sh "$work/zstd" bookworm "${tars[@]}"
  rm -f "${tars[@]}"
}
# The same image with one more layer, of a small file.
top_layout() {
  cp -al "$cache/dev/oci" "$work/top"
  rm "$work/top/index.json"; cp "$cache/dev/oci/index.json" "$work/top/index.json"
  date >"$work/top-file"
  umoci insert --image "$work/top:bookworm" "$work/top-file" /usr/share/top-file >&2
}
bench() { # TABLE [FLAG…]
  local dir; dir=$(mktemp -d "$work/pull-XXXXXX")
  "$work/bench" pull "$1" -banger bin/banger -dir "$dir" -runs "$runs" "${@:2}"
  rm -rf "${dir:?}/home"
}

igzip_() {
  printf '\n### gzip, with igzip\n\n'
  bench igzip -image "$registry/dev:bookworm" -layout "$cache/dev/oci"
}
go_() {
  printf '\n### gzip, without a program that decompresses\n\n'
  bench go -image "$registry/dev:bookworm" -layout "$cache/dev/oci"
}
zstd_() {
  printf '\n### zstd\n\n'
  zstd_layout; push "$work/zstd:bookworm" zstd
  bench zstd -image "$registry/zstd:bookworm" -layout "$work/zstd"
}
shared_() {
  printf '\n### Layers that are there already\n\n'
  top_layout; push "$work/top:bookworm" top
  bench shared -image "$registry/top:bookworm" -base "$registry/dev:bookworm"
}
rivals_() {
  printf '\n### skopeo, umoci and mkfs.ext4\n\n'
  bench rivals -image "$registry/dev:bookworm"
}

cat <<EOF
## Pull to disk

Medians of $runs interleaved runs on $(nproc) processors, $(uname -m), Linux $(uname -r), from docker-registry on loopback.
EOF
push "$cache/dev/oci:bookworm" dev
if [ $# = 0 ]; then set -- igzip go zstd shared rivals; fi # the rivals last: they leave many files that were removed
for table in "$@"; do "${table}_"; done
