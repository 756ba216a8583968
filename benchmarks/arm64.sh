#!/bin/sh
# The device's install set on emulated arm64: installs it and runs `faa-device check`. By hand, not in CI: emulation is slow.
#
#     benchmarks/arm64.sh [STAGE...]        # root; default: every stage in order; each says how long it took
#
# Stages: system (Debian 12 for arm64), install (the wheel with its dependencies, by pip in there), compile (byte code),
# check (`faa-device check`).
# Needs: apt-get install debootstrap qemu-user-static binfmt-support. Takes 3 GB in $ROOT.
set -eu
HERE=${HERE:-$(cd "$(dirname "$0")/.." && pwd)}
ROOT=${ROOT:-/var/tmp/faa-arm64}
PY=${PY:-$HERE/.venv/bin/python}
# A Raspberry Pi 4's core: what it cannot execute is an illegal instruction here too. It is also faster to emulate than
# qemu's default, which computes pointer authentication.
export QEMU_CPU=${QEMU_CPU:-cortex-a72}

inside() {
  chroot "$ROOT" /usr/bin/env -i HOME=/root PATH=/opt/faa/bin:/usr/bin:/bin QEMU_CPU="$QEMU_CPU" OMP_NUM_THREADS=1 \
    FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1 ${PIP_CERT:+PIP_CERT="$PIP_CERT"} "$@"
}

mounted() {  # /proc is needed by Python and Flower; the same for /dev
  for what in proc dev; do
    mountpoint -q "$ROOT/$what" || mount --bind "/$what" "$ROOT/$what"
  done
}

unmount() {
  for what in proc dev; do
    if mountpoint -q "$ROOT/$what"; then umount -l "$ROOT/$what"; fi
  done
}

system() {
  mountpoint -q /proc/sys/fs/binfmt_misc || mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc
  test -e /proc/sys/fs/binfmt_misc/qemu-aarch64 || update-binfmts --enable qemu-aarch64
  # Unpacked by this machine, not configured by the emulated one: that would take hours, and Python does without.
  mkdir -p "$ROOT.debs" "$ROOT"
  ls "$ROOT.debs"/var/cache/apt/archives/*.deb >/dev/null 2>&1 || debootstrap --arch=arm64 --variant=minbase --download-only --include=python3,python3-venv bookworm "$ROOT.debs" \
    >"$ROOT.log" 2>&1 || { tail -5 "$ROOT.log"; exit 1; }
  for name in bin sbin lib; do mkdir -p "$ROOT/usr/$name"; ln -sfn "usr/$name" "$ROOT/$name"; done
  for deb in "$ROOT.debs"/var/cache/apt/archives/*.deb; do
    dpkg-deb --fsys-tarfile "$deb" | tar -x --keep-directory-symlink -C "$ROOT"
  done
  mkdir -p "$ROOT/proc" "$ROOT/dev" "$ROOT/tmp" "$ROOT/root"
  chmod 1777 "$ROOT/tmp"
}

install() {
  rm -rf "$ROOT/wheel" && mkdir -p "$ROOT/wheel" "$ROOT/etc/ssl/certs"
  (cd "$HERE" && "$PY" -m hatchling build -t wheel -d "$ROOT/wheel" >/dev/null)
  cp /etc/resolv.conf "$ROOT/etc/resolv.conf"
  if [ -n "${PIP_CERT:-}" ]; then cp "$PIP_CERT" "$ROOT$PIP_CERT"; fi
  inside python3 -m venv /opt/faa
  # scikit-learn is the quickstart's: its data set is in there
  inside sh -c 'pip install --quiet --no-compile --no-cache-dir /wheel/*.whl "scikit-learn>=1.5,<2"'
  inside pip list --format=freeze | grep -iE '^(flwr|torch|numpy|cryptography|py.arkworks|nvidia)' || true
  du -sm "$ROOT/opt/faa/lib" | cut -f1 | sed 's/$/ MB unpacked/'
}

compile() {  # on this side, which is fast; byte code does not depend on the processor, only on Python 3.11
  "$PY" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { echo "expected Python 3.11 as PY"; exit 1; }
  "$PY" -m compileall -q -j 2 -s "$ROOT" "$ROOT/opt/faa/lib/python3.11/site-packages" "$ROOT/usr/lib/python3.11" || true
}

check() {
  inside /opt/faa/bin/faa-device check --folder /var/lib/faa || true
}

trap unmount EXIT
[ $# -gt 0 ] || set -- system install compile check
for stage in "$@"; do
  if [ "$stage" != system ]; then mounted; fi
  start=$(date +%s)
  "$stage"
  echo "$stage: $(( $(date +%s) - start )) s"
done
