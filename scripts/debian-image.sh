#!/usr/bin/env bash
# debian-image.sh DIR: makes a real Debian with systemd, once: DIR/rootfs.tar and the OCI layout DIR/oci, tag bookworm.
set -euo pipefail
dir=${1:?usage: debian-image.sh DIR}
if [ -f "$dir/oci/index.json" ]; then exit 0; fi
scripts=$(dirname "$0")
mkdir -p "$dir"
work=$(mktemp -d "$dir/new-XXXXXX")
trap 'rm -rf "$work"' EXIT

"$scripts/debian-tar.sh" systemd-sysv,udev,dbus,iproute2,iputils-ping,libcap2-bin,sudo,kmod,procps,passwd \
  --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' >"$work/rootfs.tar"
"$scripts/oci-layout.sh" "$work/oci" bookworm "$work/rootfs.tar"
rm -rf "$dir/oci" "$dir/rootfs.tar"
mv "$work/rootfs.tar" "$dir/rootfs.tar"
mv "$work/oci" "$dir/oci"
