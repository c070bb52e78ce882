#!/usr/bin/env bash
# oci-layout.sh DIR TAG TAR…: makes DIR an OCI layout with one image, by the image specification: the tars are its
# layers, the lowest first. COMPRESS is the command that compresses a layer to gzip (gzip -n -1) or zstd, or "none".
set -euo pipefail
dir=${1:?usage: oci-layout.sh DIR TAG TAR…} tag=${2:?a tag}
shift 2
compress=${COMPRESS:-gzip -n -1}
blobs=$dir/blobs/sha256
oci=application/vnd.oci.image
mkdir -p "$blobs"

digest() { sha256sum "$1" | cut -d' ' -f1; }
store() { # FILE: moves it among the blobs and prints "digest","size" for a descriptor
  local sum size
  sum=$(digest "$1"); size=$(stat -c %s "$1")
  mv "$1" "$blobs/$sum"
  printf '"digest":"sha256:%s","size":%s' "$sum" "$size"
}

layers=() diff_ids=()
for tar in "$@"; do
  diff_ids+=("\"sha256:$(digest "$tar")\"")
  type=$oci.layer.v1.tar
  if [ "$compress" = none ]; then
    ln "$tar" "$dir/layer" 2>/dev/null || cp "$tar" "$dir/layer"
  else
    case $compress in zstd*) type+=+zstd ;; *) type+=+gzip ;; esac
    $compress <"$tar" >"$dir/layer"
  fi
  layers+=("{\"mediaType\":\"$type\",$(store "$dir/layer")}")
done
list() { local IFS=,; echo "$*"; }
cat >"$dir/config" <<JSON
{"architecture":"amd64","os":"linux","config":{"Cmd":["bash"],"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]},"rootfs":{"type":"layers","diff_ids":[$(list "${diff_ids[@]}")]}}
JSON
config=$(store "$dir/config")
cat >"$dir/manifest" <<JSON
{"schemaVersion":2,"mediaType":"$oci.manifest.v1+json","config":{"mediaType":"$oci.config.v1+json",$config},"layers":[$(list "${layers[@]}")]}
JSON
manifest=$(store "$dir/manifest")
cat >"$dir/index.json" <<JSON
{"schemaVersion":2,"manifests":[{"mediaType":"$oci.manifest.v1+json",$manifest,"annotations":{"org.opencontainers.image.ref.name":"$tag"}}]}
JSON
echo '{"imageLayoutVersion":"1.0.0"}' >"$dir/oci-layout"
