#!/usr/bin/env bash
# Builds etcd, etcdctl and etcdutl of one version into the test cache and prints
# their directory. A directory in the cache is complete: it is built beside its
# place and renamed. Runs side by side wait for each other.
#
#   install-etcd.sh 3.4|3.5|3.6|3.7|distribution
#
# `distribution` is whatever version the distribution's packages have.
#
# The cache is $ETCDVAULT_TEST_CACHE, else ~/.cache/etcdvault-test.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
cache=${ETCDVAULT_TEST_CACHE:-$HOME/.cache/etcdvault-test}

fail() { echo "install-etcd.sh: $*" >&2; exit 1; }

series=${1:-}
case $series in
  3.4) version=3.4.23 ;;
  3.5 | 3.6 | 3.7)
    version=$(awk '$1 == "go.etcd.io/etcd/server/v3" { v = substr($2, 2) } END { print v }' \
      "$here/etcd-$series/go.mod")
    [ -n "$version" ] || fail "no server version in etcd-$series/go.mod" ;;
  distribution) version=distribution ;;
  *) fail "which etcd? 3.4, 3.5, 3.6, 3.7 or distribution (got '${series}')" ;;
esac

target=$cache/etcd-$version
if [ -x "$target/etcd" ]; then echo "$target"; exit 0; fi

mkdir -p "$cache"
exec 9>"$cache/.etcd-$version.lock"
flock 9
if [ -x "$target/etcd" ]; then echo "$target"; exit 0; fi

# The lock is ours, so what an interrupted run left is nobody's.
rm -rf "$cache/.building-etcd-$version".*
build=$(mktemp -d "$cache/.building-etcd-$version.XXXXXX")
trap 'rm -rf "$build"' EXIT
mkdir "$build/out"

# Go modules: the three programs are the tools of a module of our own, whose
# go.sum pins everything; the server's program is called `server`.
from_modules() {
  command -v go >/dev/null || fail "go is not in PATH; etcd $version is built from its modules"
  (cd "$here/etcd-$series" &&
    CGO_ENABLED=0 go build -mod=readonly -trimpath -buildvcs=false -ldflags '-s -w' \
      -o "$build/out/" tool) >&2
  mv "$build/out/server" "$build/out/etcd"
}

# Debian's packages, unpacked and not installed: nothing is started and nothing
# of the machine changes, not even its package lists. 3.4 is Debian 12's, whatever
# runs here.
from_packages() {
  command -v apt-get >/dev/null || fail "etcd $version comes from Debian's packages; no apt-get here"
  local apt=$build/apt options package
  mkdir -p "$build/packages" "$apt/lists/partial" "$apt/cache/archives/partial"
  options=(-qq -o APT::Sandbox::User=root -o "Dir::State::lists=$apt/lists" -o "Dir::Cache=$apt/cache")
  if [ "$series" = 3.4 ]; then
    local keys=/usr/share/keyrings/debian-archive-keyring.gpg
    [ -e "$keys" ] || fail "$keys is missing (the package debian-archive-keyring)"
    echo "deb [signed-by=$keys] ${DEBIAN_MIRROR:-http://deb.debian.org/debian} bookworm main" >"$apt/sources.list"
    options+=(-o "Dir::Etc::sourcelist=$apt/sources.list" -o Dir::Etc::sourceparts=-)
  fi
  apt-get "${options[@]}" update >&2 || fail "the package lists cannot be had"
  (cd "$build/packages" && apt-get "${options[@]}" download etcd-server etcd-client) >&2 ||
    fail "apt-get download etcd-server etcd-client failed"
  for package in "$build"/packages/*.deb; do
    dpkg -x "$package" "$build/packages/root"
  done
  mv "$build/packages/root/usr/bin/etcd" "$build/packages/root/usr/bin/etcdctl" "$build/out/"
}

case $series in
  3.4 | distribution) from_packages ;;
  *) from_modules ;;
esac

said=$("$build/out/etcd" --version | sed -n 1p)
[ "$series" = distribution ] || [ "$said" = "etcd Version: $version" ] || fail "what was built calls itself '$said', not $version"
chmod 755 "$build"/out/*
mv -T "$build/out" "$target"
echo "$target"
