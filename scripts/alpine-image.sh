#!/usr/bin/env bash
# alpine-image.sh DIR: prints the path of an Alpine as docker save writes it: the one that BANGER_TEST_ALPINE names, one
# beside the checkout, or Docker Hub's, which is downloaded to DIR once. It prints nothing if there is none.
set -euo pipefail
dir=${1:?usage: alpine-image.sh DIR}
cd "$(dirname "$0")/.."
for file in "${BANGER_TEST_ALPINE:-}" ../shared/fixtures/alpine-3.10.docker-save.tar.gz "$dir/alpine.tar"; do
  if [ -f "$file" ]; then realpath "$file"; exit 0; fi
done
if skopeo --insecure-policy copy --quiet docker://docker.io/library/alpine:3.10 \
    "docker-archive:$dir/alpine.tar.part:alpine:3.10" >&2; then
  mv "$dir/alpine.tar.part" "$dir/alpine.tar"
  echo "$dir/alpine.tar"
fi
