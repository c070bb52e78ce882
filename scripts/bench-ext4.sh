#!/usr/bin/env bash
# Measures how long banger's writer takes from a tree to an ext4 file, against its rivals: mkfs.ext4 -d, the builder that
# stages the tree for it, and hcsshim's tar2ext4. RUNS interleaved runs (5) of each; tables of medians in Markdown.
# With arguments it makes only those tables: dev, nested, flat, sizes, million.
set -euo pipefail
cd "$(dirname "$0")/.."
cache=${CACHE:-$HOME/.cache/banger}/bench
runs=${RUNS:-5}
scripts/deps.sh bench
# e2fsprogs are not on an ordinary user's PATH.
export PATH=$PATH:/usr/sbin:/sbin
mkdir -p "$cache"
cache=$(realpath "$cache")
# What is measured is written beside the inputs: to the same disk. WORK is a directory that the caller removes.
work=${WORK:-}
if [ -z "$work" ]; then
  work=$(mktemp -d "$cache/run-XXXXXX")
  trap 'rm -rf "$work"' EXIT
fi
(cd bench && ${GO:-go} test ./... >&2 && CGO_ENABLED=0 ${GO:-go} build -trimpath -o "$work/bench" .)

synthetic() { # SHAPE: makes the input SHAPE, once
  local dir=$cache/$1
  if [ -f "$dir/oci/index.json" ]; then return; fi
  rm -rf "$dir"; mkdir -p "$dir"
  "$work/bench" synthesize "$1" >"$dir/rootfs.tar"
  COMPRESS=none scripts/oci-layout.sh "$work/oci" synthetic "$dir/rootfs.tar"
  mv "$work/oci" "$dir/oci"
}
extracted() { # INPUT: extracts the tar for mkfs.ext4 -d, once, with every owner: as root, or for fakeroot
  local dir=$cache/$1
  if [ -d "$dir/tree" ]; then return; fi
  rm -rf "$dir/tree.part"; mkdir "$dir/tree.part"
  if [ "$(id -u)" = 0 ]; then
    tar -C "$dir/tree.part" --xattrs --xattrs-include='*' --numeric-owner -xpf "$dir/rootfs.tar"
  else
    fakeroot -s "$dir/tree.owners" tar -C "$dir/tree.part" --numeric-owner -xpf "$dir/rootfs.tar"
  fi
  mv "$dir/tree.part" "$dir/tree"
}
compare() { # INPUT CONTENDER…
  local input=$1; shift
  "$work/bench" compare -input "$cache/$input" -store "$work/layers" -out "$work/out.ext4" -runs "$runs" "$@" || failed=yes
  rm -f "$work/out.ext4"
}
rivals=(native@4GiB mkfs@4GiB builder@4GiB tar2ext4@4GiB)
failed=

dev() {
  printf '\n### A Debian development image\n\n'
  scripts/dev-image.sh "$cache/dev"; extracted dev
  compare dev "${rivals[@]}"
}
nested() {
  printf '\n### 120 000 small files in nested directories\n\n'
  synthetic nested; extracted nested
  compare nested "${rivals[@]}"
}
# mkfs.ext4 -d looks every name up in what it has of the directory, so its time grows with the square of their number: it
# runs once, and the builder, which runs it too, not at all.
flat() {
  printf '\n### 100 000 small files in one directory\n\n'
  synthetic flat; extracted flat
  compare flat -once mkfs native@4GiB mkfs@4GiB tar2ext4@4GiB
}
sizes() {
  printf '\n### The nominal size of the disk\n\n'
  scripts/dev-image.sh "$cache/dev"
  compare dev native@2GiB native@64GiB
}
million() {
  printf '\n### A million files\n\n'
  synthetic million
  runs=1 compare million native@24GiB
}

cat <<EOF
## Tree to ext4

Medians of $runs interleaved runs on $(nproc) processors, $(uname -m), Linux $(uname -r), $(mkfs.ext4 -V 2>&1 | head -n 1).
"Ready" is when the file is complete in the page cache, "synced" when it is on the disk as well (fsync). mkfs.ext4 and
debugfs sync by themselves; the "ready" of mkfs.ext4 is of runs of their own in which libeatmydata leaves that out.
EOF
if [ $# = 0 ]; then set -- dev nested flat sizes million; fi
for table in "$@"; do "$table"; done
[ -z "$failed" ]
