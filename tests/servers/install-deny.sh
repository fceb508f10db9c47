#!/usr/bin/env bash
# Builds cargo-deny into the test cache and prints the program's path.
set -euo pipefail

version=0.20.2
cache=${ETCDVAULT_TEST_CACHE:-$HOME/.cache/etcdvault-test}
target=$cache/cargo-deny-$version
if [ -x "$target/bin/cargo-deny" ]; then echo "$target/bin/cargo-deny"; exit 0; fi

mkdir -p "$cache"
exec 9>"$cache/.cargo-deny-$version.lock"
flock 9
if [ ! -x "$target/bin/cargo-deny" ]; then
  # The lock is ours, so what an interrupted run left is nobody's.
  build=$cache/.building-cargo-deny-$version
  rm -rf "$build"
  trap 'rm -rf "$build"' EXIT
  # Unoptimised: it builds in a third of the time, and reads a lock file in a second.
  CARGO_TARGET_DIR=$build/target \
    cargo install --debug --locked --root "$build/out" --version "=$version" cargo-deny >&2
  mv -T "$build/out" "$target"
fi
echo "$target/bin/cargo-deny"
