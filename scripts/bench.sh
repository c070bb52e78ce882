#!/usr/bin/env bash
# The benchmarks of docs/benchmarks.md. What they make is removed when all is done: for minutes after many files were
# removed, ext4 makes others slowly, which the next benchmark would measure. So the pull, which removes some, is the last.
set -euo pipefail
cd "$(dirname "$0")/.."
cache=${CACHE:-$HOME/.cache/banger}/bench
mkdir -p "$cache"
WORK=$(mktemp -d "$(realpath "$cache")/run-XXXXXX")
export WORK
trap 'chmod -R u+rwX "$WORK"; rm -rf "$WORK"' EXIT
scripts/bench-ext4.sh
echo
scripts/bench-vm.sh
echo
scripts/bench-pull.sh
