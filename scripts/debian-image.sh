#!/usr/bin/env bash
# debian-image.sh DIR: makes a real Debian with systemd, once: DIR/rootfs.tar and the OCI layout DIR/oci, tag bookworm.
set -euo pipefail
dir=${1:?usage: debian-image.sh DIR}
suite=bookworm
if [ -f "$dir/oci/index.json" ]; then exit 0; fi
# mmdebstrap needs ldconfig and chroot, which are not on an ordinary user's PATH.
export PATH=$PATH:/usr/sbin:/sbin
mkdir -p "$dir"
work=$(mktemp -d "$dir/new-XXXXXX")
trap 'rm -rf "$work"' EXIT

packages=systemd-sysv,udev,dbus,iproute2,iputils-ping,libcap2-bin,sudo,kmod,procps,passwd
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
options=()
if [ -f "$keyring" ]; then options+=("--keyring=$keyring"); fi
# The mode is root for root, unshare for a user with subordinate ids, and fakechroot for any other: owners, setuid bits
# and file capabilities are right in all of them. The tar goes through a pipe, since in the mode unshare it is another
# user who writes it. Syncing every file would take longer than all the rest.
# shellcheck disable=SC2016 # the shell of the hooks expands $1
mmdebstrap --quiet --mode=auto --variant=minbase --include="$packages" "${options[@]}" \
  --aptopt='Acquire::Languages "none"' --dpkgopt=force-unsafe-io \
  --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
  --customize-hook='chroot "$1" passwd -d root >/dev/null' --customize-hook='rm -f "$1/etc/resolv.conf" "$1/etc/hostname"' \
  "$suite" - >"$work/rootfs.tar"

# The OCI layout by the image specification: one gzip layer, a config, a manifest, an index.
blobs=$work/oci/blobs/sha256
mkdir -p "$blobs"
digest() { sha256sum "$1" | cut -d' ' -f1; }
store() { # FILE: moves it among the blobs and prints "digest","size" for a descriptor
  local sum size
  sum=$(digest "$1"); size=$(stat -c %s "$1")
  mv "$1" "$blobs/$sum"
  printf '"digest":"sha256:%s","size":%s' "$sum" "$size"
}
diff_id=$(digest "$work/rootfs.tar")
gzip -n -1 -c "$work/rootfs.tar" >"$work/layer"
layer=$(store "$work/layer")
cat >"$work/config" <<JSON
{"architecture":"amd64","os":"linux","config":{"Cmd":["bash"],"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]},"rootfs":{"type":"layers","diff_ids":["sha256:$diff_id"]}}
JSON
config=$(store "$work/config")
oci=application/vnd.oci.image
cat >"$work/manifest" <<JSON
{"schemaVersion":2,"mediaType":"$oci.manifest.v1+json","config":{"mediaType":"$oci.config.v1+json",$config},"layers":[{"mediaType":"$oci.layer.v1.tar+gzip",$layer}]}
JSON
manifest=$(store "$work/manifest")
cat >"$work/oci/index.json" <<JSON
{"schemaVersion":2,"manifests":[{"mediaType":"$oci.manifest.v1+json",$manifest,"annotations":{"org.opencontainers.image.ref.name":"$suite"}}]}
JSON
echo '{"imageLayoutVersion":"1.0.0"}' >"$work/oci/oci-layout"
rm -rf "$dir/oci" "$dir/rootfs.tar"
mv "$work/rootfs.tar" "$dir/rootfs.tar"
mv "$work/oci" "$dir/oci"
