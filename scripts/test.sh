#!/usr/bin/env bash
# Runs every test. First it prepares, once, what the tests need: a kernel package, a real Debian image, one with podman, a
# real Alpine, and the newest e2fsck.
set -euo pipefail
cd "$(dirname "$0")/.."
cache=${CACHE:-$HOME/.cache/banger}/test
mkdir -p "$cache"
# e2fsprogs are not on an ordinary user's PATH.
export PATH=$PATH:/usr/sbin:/sbin

say() { printf '\n== %s\n' "$*"; }

# An Alpine as docker save writes it: the one given, one beside the checkout, or Docker Hub's.
alpine() {
  local name=alpine-3.10.docker-save.tar.gz file
  for file in "${BANGER_TEST_ALPINE:-}" "../shared/fixtures/$name" "$cache/alpine.tar"; do
    if [ -f "$file" ]; then realpath "$file"; return; fi
  done
  if skopeo --insecure-policy copy --quiet docker://docker.io/library/alpine:3.10 \
      "docker-archive:$cache/alpine.tar.part:alpine:3.10" >&2; then
    mv "$cache/alpine.tar.part" "$cache/alpine.tar"
    echo "$cache/alpine.tar"
  fi
}

say "fixtures"
BANGER_TEST_KERNEL_DEB=$(scripts/kernel-deb.sh "$cache/kernel")
scripts/debian-image.sh "$cache/debian"
BANGER_TEST_DEBIAN="$cache/debian"
scripts/containers-image.sh "$cache/containers"
BANGER_TEST_CONTAINERS="$cache/containers"
BANGER_TEST_ALPINE=$(alpine)
# The newest e2fsck judges beside the host's. Without a network there is none, which a test says.
BANGER_TEST_E2FSCK=${BANGER_TEST_E2FSCK:-$(scripts/e2fsprogs.sh "$cache/e2fsprogs" || true)}
export BANGER_TEST_KERNEL_DEB BANGER_TEST_DEBIAN BANGER_TEST_ALPINE BANGER_TEST_E2FSCK BANGER_TEST_CONTAINERS
# The tests run banger under an account of its own, which has to reach the fixtures.
stage=$(mktemp -d /tmp/banger-fixtures-XXXXXX)
trap 'rm -rf "$stage"' EXIT
chmod 755 "$stage"
cp -r "$BANGER_TEST_DEBIAN" "$stage/debian"; BANGER_TEST_DEBIAN=$stage/debian
cp -r "$BANGER_TEST_CONTAINERS" "$stage/containers"; BANGER_TEST_CONTAINERS=$stage/containers
mkdir "$stage/kernel"
# shellcheck disable=SC2086 # paths without spaces, one a word
cp $BANGER_TEST_KERNEL_DEB "$stage/kernel/"
BANGER_TEST_KERNEL_DEB=$(echo "$stage"/kernel/*.deb)
if [ -n "$BANGER_TEST_ALPINE" ]; then cp "$BANGER_TEST_ALPINE" "$stage/"; BANGER_TEST_ALPINE=$stage/$(basename "$BANGER_TEST_ALPINE"); fi
chmod -R a+rX "$stage"

say "the packages"
${GO:-go} vet ./...
BANGER_SOAK=${BANGER_SOAK:-5} ${GO:-go} test -race -timeout 20m ./cmd/... ./internal/...
say "end to end"
${GO:-go} test -count=1 -timeout 40m -parallel 2 ./test/...
