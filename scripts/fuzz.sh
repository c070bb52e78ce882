#!/usr/bin/env bash
# Runs each fuzz target of the project for FUZZTIME (30s).
set -euo pipefail
cd "$(dirname "$0")/.."
go=${GO:-go}
for package in $($go list ./...); do
  for target in $($go test -list '^Fuzz' "$package" | grep '^Fuzz' || true); do
    echo "== ${package##*/banger/} $target"
    $go test -run '^$' -fuzz "^$target\$" -fuzztime "${FUZZTIME:-30s}" -fuzzminimizetime 10x "$package"
  done
done
