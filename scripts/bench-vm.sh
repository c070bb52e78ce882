#!/usr/bin/env bash
# Measures banger's VMs against what one does without banger: booting QEMU by hand, and OpenSSH to an sshd in the VM. RUNS
# interleaved runs (9); tables in Markdown. With arguments it makes only those tables: boot, exec, cp, streams, many.
set -euo pipefail
cd "$(dirname "$0")/.."
cache=${CACHE:-$HOME/.cache/banger}
runs=${RUNS:-9}
scripts/deps.sh build test bench
export PATH=$PATH:/usr/sbin:/sbin
mkdir -p "$cache/bench"
# WORK is a directory that the caller removes. The paths of sockets are short, so they are not in it.
work=${WORK:-}
if [ -z "$work" ]; then
  work=$(mktemp -d "$(realpath "$cache/bench")/run-XXXXXX")
  own=$work
fi
XDG_RUNTIME_DIR=$(mktemp -d /tmp/banger-bench-XXXXXX)
export BANGER_HOME=$work/vmhome XDG_RUNTIME_DIR
end() {
  bin/banger vm rm --force bench-ssh >/dev/null 2>&1 || true
  rm -rf "$XDG_RUNTIME_DIR" "${own:-}"
}
trap end EXIT
(cd bench && CGO_ENABLED=0 ${GO:-go} build -trimpath -o "$work/bench" .)

# A Debian with an sshd, made once.
sshd_image() {
  local dir=$cache/bench/sshd
  if [ -f "$dir/oci/index.json" ]; then return; fi
  mkdir -p "$dir"
  scripts/debian-tar.sh openssh-server >"$dir/rootfs.tar"
  scripts/oci-layout.sh "$dir/oci.part" sshd "$dir/rootfs.tar"
  rm -f "$dir/rootfs.tar"
  mv "$dir/oci.part" "$dir/oci"
}
bench() { # TABLE [FLAG…]
  local dir; dir=$(mktemp -d "$work/vm-XXXXXX")
  "$work/bench" vm "$1" -banger bin/banger -dir "$dir" -runs "$runs" "${@:2}"
  rm -rf "$dir"
}
# The VM that exec, cp and streams are measured in.
guest() {
  if bin/banger vm inspect bench-ssh >/dev/null 2>&1; then return; fi
  bin/banger vm run --quiet -d --name bench-ssh --memory 1GiB --disk 8GiB sshd -- sleep 100000 >/dev/null
}

table_boot() {
  printf '\n### From nothing to the end of a command\n\n'
  bench boot -kernel "$(echo "$BANGER_HOME"/kernels/*/vmlinuz)" -image "$small"
}
table_exec() {
  printf '\n### A command in a VM that runs\n\n'
  guest; bench exec -vm bench-ssh
}
table_cp() {
  printf '\n### Copying files\n\n'
  guest; runs=${RUNS:-3} bench cp -vm bench-ssh
}
table_streams() {
  printf '\n### Sixteen streams at once\n\n'
  guest; bench streams -vm bench-ssh -size $((64 << 20))
}
table_many() {
  printf '\n### Ten small VMs at once\n\n'
  bench many -image "$small"
}

sshd_image
# shellcheck disable=SC2046 # paths without spaces, one a word
bin/banger kernel import --deb $(scripts/kernel-deb.sh "$cache/test/kernel") >/dev/null 2>&1
bin/banger image pull "oci:$cache/bench/sshd/oci:sshd" --name sshd >/dev/null 2>&1
# Where no Alpine can be had, the Debian stands in for it.
alpine=$(scripts/alpine-image.sh "$cache/test" 2>/dev/null || true)
small=sshd
if [ -n "$alpine" ]; then
  small=alpine
  bin/banger image pull "docker-archive:$alpine" --name alpine >/dev/null 2>&1
fi

printf '## Virtual machines\n\nMedians of interleaved runs on %s processors, Linux %s, %s.\n' \
  "$(nproc)" "$(uname -r)" "$(qemu-system-x86_64 --version | head -n 1)"
if [ $# = 0 ]; then set -- boot exec cp streams many; fi
for table; do
  "table_$table"
done
