#!/usr/bin/env bash
# deps.sh [build] [demo] [test] [bench]: installs what these need and the machine lacks, on Debian 12 and later and
# Ubuntu 22.04 and later. Where nothing is missing it does nothing. Without root and sudo it prints the one line to run.
set -euo pipefail

export PATH=$PATH:/usr/sbin:/sbin:/usr/local/go/bin:/usr/lib/go-1.24/bin:/usr/lib/go-1.23/bin:/usr/lib/go-1.22/bin
backports=/etc/apt/sources.list.d/banger-backports.list

# want COMMAND PACKAGE: notes the package when the command is missing.
missing=()
want() { command -v "$1" >/dev/null || missing+=("$2"); }

# image: what scripts/debian-image.sh needs. An ordinary user needs subordinate ids, or else fakechroot.
image() {
  want mmdebstrap mmdebstrap
  [ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || missing+=(debian-archive-keyring)
  if [ "$(id -u)" = 0 ]; then return; fi
  if grep -qs "^$(id -un):" /etc/subuid; then
    want newuidmap uidmap
  else
    want fakechroot fakechroot; want fakeroot fakeroot
  fi
}

# Go 1.21 and later fetch the toolchain that go.mod names.
go_works() { command -v go >/dev/null && go env GOVERSION 2>/dev/null | grep -Eq '^go1\.(2[1-9]|[3-9][0-9])'; }

for purpose in "${@:-build}"; do
  case "$purpose" in
    build)
      if ! go_works; then missing+=(go); fi
      want git git
      ;;
    demo)
      want qemu-system-x86_64 qemu-system-x86; want qemu-img qemu-utils
      image; want docker-registry docker-registry; want skopeo skopeo; want curl curl
      ;;
    test)
      want mkfs.ext4 e2fsprogs; want qemu-system-x86_64 qemu-system-x86; want qemu-img qemu-utils
      image; want docker-registry docker-registry; want skopeo skopeo; want curl curl
      want umoci umoci; want gcc gcc; want cpio cpio; want zstd zstd; want igzip isal; want pigz pigz; want xz xz-utils; want ar binutils
      want setcap libcap2-bin; want getfattr attr; want getfacl acl; want pgrep procps; want dpkg-deb dpkg; want depmod kmod
      want ssh openssh-client; want rsync rsync; want tmux tmux
      [ -e /usr/lib/openssh/sftp-server ] || missing+=(openssh-sftp-server)
      # The race detector links against the C library.
      [ -e /usr/include/stdlib.h ] || missing+=(libc6-dev)
      ;;
    bench)
      want mkfs.ext4 e2fsprogs; image; want umoci umoci; want fakeroot fakeroot; want eatmydata eatmydata
      want docker-registry docker-registry; want skopeo skopeo; want curl curl; want igzip isal; want zstd zstd
      ;;
    *) echo "deps.sh: no purpose $purpose" >&2; exit 2 ;;
  esac
done
[ ${#missing[@]} -gt 0 ] || exit 0

# shellcheck source=/dev/null
codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
# The distribution's own Go, and on Debian 12, whose Go is too old, the one of its backports.
steps=()
packages=()
for package in "${missing[@]}"; do
  case "$package:$codename" in
    go:bookworm)
      packages+=(golang-1.23-go)
      if ! grep -rqs bookworm-backports /etc/apt/sources.list /etc/apt/sources.list.d; then
        mirror=$(grep -rhos 'https\?://[^ ]*debian/\?' /etc/apt/sources.list /etc/apt/sources.list.d | grep -v security | head -n 1 || true)
        steps+=("echo 'deb ${mirror:-http://deb.debian.org/debian} bookworm-backports main' >$backports")
      fi
      ;;
    go:jammy) packages+=(golang-1.23-go) ;; # in jammy-updates
    go:*) packages+=(golang-go) ;;
    *) packages+=("$package") ;;
  esac
done
if [ ! -e /etc/ssl/certs/ca-certificates.crt ]; then packages+=(ca-certificates); fi
# One source that does not answer must not keep the others from being used.
steps+=("apt-get update -qq || true"
  "DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends ${packages[*]}")
line=$(printf '%s && ' "${steps[@]}")
line=${line% && }
line=${line//apt-get update -qq || true && /apt-get update -qq; }

if [ "$(id -u)" = 0 ]; then
  echo "deps: installing ${packages[*]}" >&2
  bash -c "$line" >&2
elif sudo -n true 2>/dev/null; then
  echo "deps: installing ${packages[*]}" >&2
  sudo -n bash -c "$line" >&2
else
  echo "Some packages are missing. Run this line, then the same command again:" >&2
  echo "  sudo bash -c \"$line\"" >&2
  exit 1
fi
