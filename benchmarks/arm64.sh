#!/bin/sh
# The device's install set on emulated arm64: installs it and runs `faa-device check`. By hand, not in CI: emulation is slow.
#
#     benchmarks/arm64.sh [STAGE...]        # root; default: every stage in order; each says how long it took
#
# Stages: system (Debian 12 for arm64), install (the wheel with its dependencies for aarch64), compile (byte code), check
# (`faa-device check`), join (a SuperNode in there takes part in a round of a loopback federation: benchmarks/arm64.py).
# Needs: apt-get install debootstrap qemu-user-static binfmt-support. Takes 2 GB in $ROOT.
set -eu
HERE=${HERE:-$(cd "$(dirname "$0")/.." && pwd)}
ROOT=${ROOT:-/var/tmp/faa-arm64}
PY=${PY:-$HERE/.venv/bin/python}
# A Raspberry Pi 4's core: what it cannot execute is an illegal instruction here too. It is also faster to emulate than
# qemu's default, which computes pointer authentication.
export QEMU_CPU=${QEMU_CPU:-cortex-a72}

inside() {
  chroot "$ROOT" /usr/bin/env -i HOME=/root PATH=/opt/faa/bin:/usr/bin:/bin QEMU_CPU="$QEMU_CPU" OMP_NUM_THREADS=1 \
    FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1 "$@"
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
  site=$ROOT/opt/faa/lib/python3.11/site-packages
  rm -rf "$ROOT/wheel" "$ROOT/opt/faa" && mkdir -p "$ROOT/wheel"
  (cd "$HERE" && "$PY" -m hatchling build -t wheel -d "$ROOT/wheel" >/dev/null)
  inside python3 -m venv --without-pip /opt/faa
  # Resolved for aarch64 by this side's uv: pip in there takes more than ten minutes before it has loaded itself.
  # hydra-core is the lab app's, on the device too; antlr4 is its only package that comes as source (pure Python).
  "$(dirname "$PY")/uv" pip install --quiet --python-version 3.11 --python-platform aarch64-manylinux_2_36 \
    --only-binary :all: --no-binary antlr4-python3-runtime --target "$site" "$(echo "$ROOT"/wheel/*.whl)[device]" "hydra-core>=1.3.2,<1.4"
  for script in "$site"/bin/*; do
    sed "1s|^#!.*python.*|#!/opt/faa/bin/python3|" "$script" >"$ROOT/opt/faa/bin/$(basename "$script")"
    chmod +x "$ROOT/opt/faa/bin/$(basename "$script")"
  done
  ls "$site" | grep -E '^(flwr|flwr_anomaly|torch|numpy|cryptography|py_arkworks_bls12381|nvidia.*)-.*dist-info$' || true
  du -sm "$site" | cut -f1 | sed 's/$/ MB unpacked/'
}

compile() {  # on this side, which is fast; byte code does not depend on the processor, only on Python 3.11
  "$PY" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { echo "expected Python 3.11 as PY"; exit 1; }
  "$PY" -m compileall -q -j 2 -s "$ROOT" "$ROOT/opt/faa/lib/python3.11/site-packages" "$ROOT/usr/lib/python3.11" || true
}

check() {
  inside /opt/faa/bin/faa-device check --folder /var/lib/faa || true
}

join() {
  rm -rf "$ROOT/field" "$ROOT/src" && mkdir -p "$ROOT/src"
  cp -r "$HERE/apps" "$HERE/conf" "$ROOT/src"
  # Flower starts another process for a message if one has not reported within 30 s; on a busy machine an emulated one
  # has not even loaded Flower by then. Only the copy in there is told to wait longer.
  sed -i 's/^HEARTBEAT_DEFAULT_INTERVAL = 30$/HEARTBEAT_DEFAULT_INTERVAL = 600/' \
    "$ROOT/opt/faa/lib/python3.11/site-packages/flwr/common/constant.py"
  (cd "$HERE" && PYTHONPATH="$HERE" "$PY" -m benchmarks.arm64 "$ROOT")
}

trap unmount EXIT
[ $# -gt 0 ] || set -- system install compile check join
for stage in "$@"; do
  if [ "$stage" != system ]; then mounted; fi
  start=$(date +%s)
  "$stage"
  echo "$stage: $(( $(date +%s) - start )) s"
done
