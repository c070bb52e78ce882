#!/usr/bin/env bash
# Boots a VM BANGER_SOAK times in a row (100), and fails at the first that does not come up.
set -euo pipefail
cd "$(dirname "$0")/.."
cache=${CACHE:-$HOME/.cache/banger}/test
scripts/deps.sh test
BANGER_TEST_KERNEL_DEB=$(scripts/kernel-deb.sh "$cache/kernel")
export BANGER_TEST_KERNEL_DEB BANGER_SOAK=${BANGER_SOAK:-100}
exec "${GO:-go}" test -count=1 -v -timeout 3h -run TestSoak ./internal/vm/qemu
