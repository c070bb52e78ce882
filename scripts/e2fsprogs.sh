#!/usr/bin/env bash
# e2fsprogs.sh DIR: unpacks the newest e2fsprogs of Debian into DIR, once, and prints the path of its e2fsck. Nothing is
# installed, and root is not needed. The programs run with the libraries that came with them, the C library included.
set -euo pipefail
dir=${1:?usage: e2fsprogs.sh DIR}
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
ready() { if [ -x "$dir/bin/e2fsck" ]; then echo "$dir/bin/e2fsck"; else return 1; fi; }
if ready; then exit 0; fi

work=$(mktemp -d "$dir/new-XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/debs" "$work/root" "$work/bin"
mirror=$(grep -rhos 'https\?://[^ ]*/debian/\?\( \|$\)' /etc/apt/sources.list /etc/apt/sources.list.d | head -n 1 || true)
# Lists of its own: the host's suite may be older, or another distribution's. Without a sandbox apt needs no other user
# to reach the directory.
apt=(-qq -o APT::Sandbox::User=root -o APT::Architecture=amd64 -o "Dir::Etc::SourceList=$work/sources"
  -o Dir::Etc::SourceParts=/dev/null -o "Dir::State::Lists=$work/lists" -o "Dir::Cache=$work/cache" -o Dir::State::Status=/dev/null)

# download SUITE: gets the suite's e2fsprogs and the libraries that they need.
download() {
  local packages
  rm -f "$work/debs"/*
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] ${mirror:-http://deb.debian.org/debian} $1 main" >"$work/sources"
  apt-get "${apt[@]}" update || return 1
  packages=$(apt-cache "${apt[@]}" depends e2fsprogs | sed -n 's/.*Depends: \(lib[a-z0-9.-]*\)$/\1/p' | sort -u)
  [ -n "$packages" ] || return 1
  # shellcheck disable=SC2086 # one package a word
  (cd "$work/debs" && apt-get "${apt[@]}" download e2fsprogs $packages)
}
found=
for suite in sid trixie; do
  if download "$suite" >>"$work/log" 2>&1; then found=$suite; break; fi
done
if [ -z "$found" ]; then
  cat "$work/log" >&2
  echo "e2fsprogs.sh: apt cannot download the e2fsprogs of Debian" >&2
  exit 1
fi
for deb in "$work"/debs/*.deb; do dpkg-deb -x "$deb" "$work/root"; done

loader=$(cd "$work/root" && find . -name 'ld-linux-x86-64.so.2' -type f | head -n 1)
e2fsck=$(cd "$work/root" && find . -name e2fsck -type f | head -n 1)
libraries=$(cd "$work/root" && find . -name '*.so.*' -printf '%h\n' | sort -u | sed "s|^\.|$dir/root|" | paste -sd:)
cat >"$work/bin/e2fsck" <<SH
#!/bin/sh
exec "$dir/root/$loader" --library-path "$libraries" "$dir/root/$e2fsck" "\$@"
SH
chmod 755 "$work/bin/e2fsck"
rm -rf "${dir:?}/root" "${dir:?}/bin"
mv "$work/root" "$dir/root"
# The program comes last: with it, DIR is complete.
mv "$work/bin" "$dir/bin"
ready
