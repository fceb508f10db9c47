#!/usr/bin/env bash
# Runs every fuzz target of fuzz/ for some seconds, from its kept corpus; what
# is found beyond it goes to fuzz/corpus-new, crashes to fuzz/artifacts.
#
#   fuzz.sh [SECONDS]
set -euo pipefail

seconds=${1:-60}
version=0.13.2
root=$(cd "$(dirname "$0")/../.." && pwd)
cache=${ETCDVAULT_TEST_CACHE:-$HOME/.cache/etcdvault-test}
tool=$cache/cargo-fuzz-$version

mkdir -p "$cache"
exec 9>"$cache/.cargo-fuzz-$version.lock"
flock 9
if [ ! -x "$tool/bin/cargo-fuzz" ]; then
  build=$cache/.building-cargo-fuzz-$version
  rm -rf "$build"
  CARGO_TARGET_DIR=$build/target \
    cargo install --quiet --debug --locked --root "$build/out" --version "=$version" cargo-fuzz
  mv -T "$build/out" "$tool"
  rm -rf "$build"
fi
flock -u 9

cd "$root"
# What cargo-fuzz passes is unstable in part; this asks a stable compiler for it. No
# address sanitizer: the crates have no unsafe code, panics, overflows, time and memory are
# what can go wrong, and without it the build takes half the time.
export RUSTC_BOOTSTRAP=1
fuzz=$tool/bin/cargo-fuzz
targets=$("$fuzz" list)
[ -n "$targets" ] || { echo "fuzz.sh: no targets" >&2; exit 1; }
log=$(mktemp)
trap 'rm -f "$log"' EXIT
for target in $targets; do
  mkdir -p "fuzz/corpus-new/$target" "fuzz/corpus/$target"
  echo "fuzzing $target for $seconds s"
  if ! "$fuzz" run --sanitizer none "$target" "fuzz/corpus-new/$target" "fuzz/corpus/$target" -- \
    -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 >"$log" 2>&1; then
    tail -n 60 "$log"
    echo "fuzz.sh: $target failed; the input is in fuzz/artifacts/$target" >&2
    exit 1
  fi
  sed -n 's/^stat::number_of_executed_units: */  inputs tried: /p; s/^stat::peak_rss_mb: */  peak memory in MB: /p' "$log"
done
