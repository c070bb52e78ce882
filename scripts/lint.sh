#!/usr/bin/env bash
# Lints the Go code, the scripts and the dependencies. The linters are Go modules of pinned versions.
set -euo pipefail
cd "$(dirname "$0")/.."
go=${GO:-go}

unformatted=$(gofmt -l bench cmd internal test)
[ -z "$unformatted" ] || { echo "lint: run gofmt on: $unformatted" >&2; exit 1; }
$go vet ./...
(cd bench && $go vet ./...)
for module in . bench; do
  (cd $module && $go run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0 run ./...)
done
$go run honnef.co/go/tools/cmd/staticcheck@v0.8.2 ./...
# The vulnerability database is on the network; without it the check says so and is skipped.
if ! $go run golang.org/x/vuln/cmd/govulncheck@v1.9.0 ./... >/tmp/govulncheck.$$ 2>&1; then
  if grep -q 'fetching vulnerabilities\|vuln.go.dev' /tmp/govulncheck.$$; then
    echo "lint: govulncheck could not reach its database" >&2
  else
    cat /tmp/govulncheck.$$ >&2; rm -f /tmp/govulncheck.$$; exit 1
  fi
fi
rm -f /tmp/govulncheck.$$
if command -v shellcheck >/dev/null; then shellcheck scripts/*.sh .ci/run; fi
