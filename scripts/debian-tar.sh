#!/usr/bin/env bash
# debian-tar.sh PACKAGES [OPTION…] >FILE: writes the tar of a minimal Debian bookworm with these packages (separated by
# commas, or empty); options are mmdebstrap's.
set -euo pipefail
packages=${1?usage: debian-tar.sh PACKAGES [OPTION…]}
options=("${@:2}")
if [ -n "$packages" ]; then options+=("--include=$packages"); fi
# mmdebstrap needs ldconfig and chroot, which are not on an ordinary user's PATH.
export PATH=$PATH:/usr/sbin:/sbin
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
if [ -f "$keyring" ]; then options+=("--keyring=$keyring"); fi
# The mode is root for root, unshare for a user with subordinate ids, and fakechroot for any other: owners, setuid bits
# and file capabilities are right in all of them. The tar goes through a pipe, since in the mode unshare it is another
# user who writes it. Syncing every file would take longer than all the rest.
# shellcheck disable=SC2016 # the shell of the hooks expands $1
exec mmdebstrap --quiet --mode=auto --variant=minbase "${options[@]}" \
  --aptopt='Acquire::Languages "none"' --dpkgopt=force-unsafe-io \
  --customize-hook='chroot "$1" passwd -d root >/dev/null' --customize-hook='rm -f "$1/etc/resolv.conf" "$1/etc/hostname"' \
  bookworm -
