#!/usr/bin/env bash
# dev-image.sh DIR: makes a real Debian for development, once: the flat DIR/rootfs.tar, and the OCI layout DIR/oci with
# the tag bookworm, whose two gzip layers are a minimal Debian and what installing the compilers changes in it.
set -euo pipefail
dir=${1:?usage: dev-image.sh DIR}
if [ -f "$dir/oci/index.json" ]; then exit 0; fi
dir=$(realpath -m "$dir")
cd "$(dirname "$0")/.."
mkdir -p "$dir"
work=$(mktemp -d "$dir/new-XXXXXX")
trap 'rm -rf "$work"' EXIT

# Files that both runs generate get the same time.
SOURCE_DATE_EPOCH=$(date +%s)
export SOURCE_DATE_EPOCH
scripts/debian-tar.sh "" >"$work/base.tar"
scripts/debian-tar.sh build-essential,python3,nodejs,git,golang-go \
  --aptopt='Apt::Install-Recommends "true"' >"$work/rootfs.tar"
(cd bench && ${GO:-go} run . difference "$work/base.tar" "$work/rootfs.tar") >"$work/changes.tar"
COMPRESS='gzip -n' scripts/oci-layout.sh "$work/oci" bookworm "$work/base.tar" "$work/changes.tar"
rm -rf "$dir/oci" "$dir/rootfs.tar"
mv "$work/rootfs.tar" "$dir/rootfs.tar"
mv "$work/oci" "$dir/oci"
