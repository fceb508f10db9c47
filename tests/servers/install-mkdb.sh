#!/usr/bin/env bash
# Builds mkdb, which makes and judges bbolt databases, into the test cache and
# prints its path. The name there follows from the sources, so that a change
# is built again.
#
# The cache is $ETCDVAULT_TEST_CACHE, else ~/.cache/etcdvault-test.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)/mkdb
cache=${ETCDVAULT_TEST_CACHE:-$HOME/.cache/etcdvault-test}

digest=$(cat "$here/main.go" "$here/go.mod" "$here/go.sum" | sha256sum | cut -c1-16)
target=$cache/mkdb-$digest
if [ -x "$target" ]; then echo "$target"; exit 0; fi
command -v go >/dev/null || { echo "install-mkdb.sh: go is not in PATH" >&2; exit 1; }

mkdir -p "$cache"
build=$(mktemp "$cache/.building-mkdb.XXXXXX")
trap 'rm -f "$build"' EXIT
(cd "$here" && CGO_ENABLED=0 go build -mod=readonly -trimpath -buildvcs=false -o "$build" .) >&2
chmod 755 "$build"
mv -T "$build" "$target"
echo "$target"
