#!/usr/bin/env bash
# kernel-deb.sh DIR: downloads the kernel package of Debian or Ubuntu that suits a VM into DIR, once, and prints the
# package files on one line. Nothing is installed, and root is not needed. Where apt's lists are absent or out of date,
# lists of its own are used, which are removed afterwards.
set -euo pipefail
dir=${1:?usage: kernel-deb.sh DIR}
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
shopt -s nullglob
ready() {
  local images=("$dir"/linux-image-*.deb) debs=("$dir"/linux-*.deb)
  [ ${#images[@]} -gt 0 ] || return 1
  echo "${debs[*]}"
}
if ready; then exit 0; fi

# shellcheck source=/dev/null
. /etc/os-release
case " $ID ${ID_LIKE:-} " in
  *" ubuntu "*) meta=linux-image-virtual; split=yes ;;
  *" debian "*) meta=linux-image-cloud-amd64; split= ;;
  *) echo "kernel-deb.sh: neither Debian nor Ubuntu: download a linux-image package into $dir" >&2; exit 1 ;;
esac

work=$(mktemp -d "$dir/new-XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/debs"
# Without a sandbox apt needs no other user to reach the directory.
apt=(-qq -o APT::Sandbox::User=root)
own=(-o "Dir::State::Lists=$work/lists" -o "Dir::Cache=$work/cache")

# download OPTION...: gets the package that the meta package depends on, and on Ubuntu that of its modules.
download() {
  local image packages
  image=$(apt-cache "$@" depends "$meta" 2>/dev/null | sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1)
  [ -n "$image" ] || return 1
  packages=("$image")
  if [ -n "$split" ]; then packages+=("linux-modules-${image#linux-image-}"); fi
  (cd "$work/debs" && apt-get "${apt[@]}" "$@" download "${packages[@]}" >&2)
}
if ! download 2>"$work/log"; then
  rm -f "$work/debs"/*
  # One source that does not answer must not keep the others from being used.
  apt-get "${apt[@]}" "${own[@]}" update >>"$work/log" 2>&1 || true
  if ! download "${own[@]}" 2>>"$work/log"; then
    cat "$work/log" >&2
    echo "kernel-deb.sh: apt cannot download what $meta depends on" >&2
    exit 1
  fi
fi
# The kernel comes last: with it, DIR is complete.
mv "$work"/debs/linux-modules-*.deb "$dir/" 2>/dev/null || true
mv "$work"/debs/*.deb "$dir/"
ready
