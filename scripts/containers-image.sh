#!/usr/bin/env bash
# containers-image.sh DIR: makes a Debian with podman, once, as two OCI layouts: DIR/systemd boots systemd, DIR/guest is
# the same without /sbin/init, so that banger's agent is process 1. The tag is podman.
set -euo pipefail
dir=${1:?usage: containers-image.sh DIR}
if [ -f "$dir/guest/index.json" ]; then exit 0; fi
scripts=$(dirname "$0")
mkdir -p "$dir"
work=$(mktemp -d "$dir/new-XXXXXX")
trap 'rm -rf "$work"' EXIT

# busybox is what the containers run: there is no registry to pull from.
"$scripts/debian-tar.sh" podman,crun,netavark,iptables,kmod,busybox-static,systemd-sysv,udev,dbus,iproute2 \
  --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
  --dpkgopt='path-exclude=/usr/share/locale/*' >"$work/rootfs.tar"
mkdir -p "$work/layer/usr/sbin"
touch "$work/layer/usr/sbin/.wh.init" # a whiteout: the layer removes the file of that name
tar -C "$work/layer" --owner=0 --group=0 -cf "$work/no-init.tar" usr/sbin/.wh.init
"$scripts/oci-layout.sh" "$work/systemd" podman "$work/rootfs.tar"
"$scripts/oci-layout.sh" "$work/guest" podman "$work/rootfs.tar" "$work/no-init.tar"
# Both have the same first layer: gzip -n writes nothing that differs.
for blob in "$work"/guest/blobs/sha256/*; do
  twin=$work/systemd/blobs/sha256/${blob##*/}
  if [ -f "$twin" ]; then ln -f "$twin" "$blob"; fi
done
rm -rf "$dir/systemd" "$dir/guest"
mv "$work/systemd" "$work/guest" "$dir/"
