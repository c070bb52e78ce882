#!/usr/bin/env bash
# Boots a VM BANGER_SOAK times in a row (100), and fails at the first that does not come up. Then runs and removes
# BANGER_CYCLES VMs (200), some of which are killed, and looks for what they left.
set -euo pipefail
cd "$(dirname "$0")/.."
cache=${CACHE:-$HOME/.cache/banger}/test
scripts/deps.sh test
# The tests run banger under an account of its own, which has to reach the fixtures.
stage=$(mktemp -d /tmp/banger-fixtures-XXXXXX)
trap 'rm -rf "$stage"' EXIT
# shellcheck disable=SC2046 # paths without spaces, one a word
cp $(scripts/kernel-deb.sh "$cache/kernel") "$stage/"
BANGER_TEST_KERNEL_DEB=$(echo "$stage"/*.deb)
BANGER_TEST_ALPINE=$stage/alpine.tar
cp "$(scripts/alpine-image.sh "$cache")" "$BANGER_TEST_ALPINE"
chmod -R a+rX "$stage"
export PATH=$PATH:/usr/sbin:/sbin BANGER_TEST_KERNEL_DEB BANGER_TEST_ALPINE
export BANGER_SOAK=${BANGER_SOAK:-100} BANGER_CYCLES=${BANGER_CYCLES:-200}
"${GO:-go}" test -count=1 -v -timeout 3h -run TestSoak ./internal/vm/qemu
"${GO:-go}" test -count=1 -v -timeout 3h -run TestCycles ./test/e2e
