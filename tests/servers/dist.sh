#!/usr/bin/env bash
# The release binary in target/dist, linked against glibc 2.17 symbols, and the
# proof: its newest glibc symbol, and on Debian 12 and 13 `--version` and the
# greeting that it gives as the agent of a node.
#
# zig is the linker (cargo-zigbuild and zig come from PyPI); root file systems
# are made by mmdebstrap once and kept in the test cache.
set -euo pipefail

zigbuild=0.24.0
zig=0.15.2
glibc=2.17
target=x86_64-unknown-linux-gnu
limit=$((30 * 1000 * 1000))

root=$(cd "$(dirname "$0")/../.." && pwd)
cache=${ETCDVAULT_TEST_CACHE:-$HOME/.cache/etcdvault-test}
fail() { echo "dist: $*" >&2; exit 1; }

mkdir -p "$cache"
exec 9>"$cache/.dist.lock"
flock 9

tools=$cache/zig-$zig-zigbuild-$zigbuild
if [ ! -d "$tools" ]; then
  # The lock is ours, so what an interrupted run left is nobody's.
  rm -rf "$cache/.building-zig"
  python3 -m pip install --quiet --root-user-action=ignore --disable-pip-version-check --no-deps --no-compile \
    --target "$cache/.building-zig" "cargo-zigbuild==$zigbuild" "ziglang==$zig"
  mv -T "$cache/.building-zig" "$tools"
fi

cd "$root"
export PATH=$tools/bin:$PATH CARGO_ZIGBUILD_ZIG_PATH=$tools/ziglang/zig CARGO_ZIGBUILD_CACHE_DIR=$cache/zig-cache
cargo zigbuild --release --bin etcdvault --target "$target.$glibc"

dist=${CARGO_TARGET_DIR:-$root/target}/dist
binary=$dist/etcdvault
mkdir -p "$dist"
install -m 755 "${CARGO_TARGET_DIR:-$root/target}/$target/release/etcdvault" "$binary"

newest=$(objdump -T "$binary" | grep -o 'GLIBC_[0-9.]*' | sort -Vu | tail -n 1)
[ -n "$newest" ] || fail "no glibc symbol in $binary: is it linked dynamically?"
[ "$(printf '%s\n' "$newest" "GLIBC_$glibc" | sort -V | tail -n 1)" = "GLIBC_$glibc" ] ||
  fail "$binary needs $newest, newer than GLIBC_$glibc"
size=$(stat -c %s "$binary")
[ "$size" -le "$limit" ] || fail "$binary has $size bytes, more than $limit"
version=$("$binary" --version)
echo "$binary: $version, $size bytes, needs $newest"

# enter ROOT COMMAND...: as root by chroot, else in a user namespace.
enter() {
  local at=$1
  shift
  if [ "$(id -u)" = 0 ]; then chroot "$at" "$@"; else unshare --map-root-user chroot "$at" "$@"; fi
}
# greeting ROOT: the line by which the program says who it is when it is started
# as the agent of a node. It reads its own file through /proc.
greeting() {
  local own=()
  [ "$(id -u)" = 0 ] || own=(--map-root-user)
  unshare --mount "${own[@]}" sh -c 'mount --rbind /dev "$1/dev" && mount --rbind /proc "$1/proc" &&
    exec chroot "$1" timeout 60 /usr/local/bin/etcdvault node-agent' sh "$1" </dev/null 2>&1 |
    head -c 4096 | tr -d '\0' | grep -a '^ETCDVAULT-AGENT ' || true
}
digest=$(sha256sum <"$binary" | cut -d ' ' -f 1)
for suite in bookworm trixie; do
  at=$cache/rootfs-$suite
  if [ ! -d "$at" ]; then
    rm -rf "$cache/.building-rootfs"
    mkdir "$cache/.building-rootfs"
    mmdebstrap --quiet --variant=essential "$suite" "$cache/.building-rootfs/root" \
      "${DEBIAN_MIRROR:-http://deb.debian.org/debian}"
    mv -T "$cache/.building-rootfs/root" "$at"
  fi
  install -m 755 "$binary" "$at/usr/local/bin/etcdvault"
  said=$(enter "$at" /usr/local/bin/etcdvault --version) || fail "does not run on Debian $suite"
  [ "$said" = "$version" ] || fail "on Debian $suite it says '$said'"
  greeted=$(greeting "$at")
  [[ $greeted =~ ^ETCDVAULT-AGENT\ [1-9][0-9]*\ ${version#etcdvault }\ $digest$ ]] ||
    fail "as the agent of a node on Debian $suite it says '$greeted'"
  echo "runs on Debian $(cat "$at/etc/debian_version") ($suite): $said, and as an agent"
done
(cd "$dist" && sha256sum etcdvault > etcdvault.sha256 && cat etcdvault.sha256)
