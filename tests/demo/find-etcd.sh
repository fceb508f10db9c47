#!/usr/bin/env bash
# Prints the directory of an etcd and an etcdctl for the demo: from PATH, else
# from the test cache, else built with Go, else from the distribution's packages.
#
#   find-etcd.sh [--check]     --check only says whether the first two have one
set -euo pipefail

servers=$(cd "$(dirname "$0")/../servers" && pwd)
cache=${ETCDVAULT_TEST_CACHE:-$HOME/.cache/etcdvault-test}

if path=$(command -v etcd) && [ -x "${path%/*}/etcdctl" ]; then
  [ "${1:-}" = --check ] || echo "${path%/*}"
  exit 0
fi
for found in "$cache"/etcd-3.6.* "$cache"/etcd-3.7.* "$cache"/etcd-3.5.* "$cache/etcd-distribution"; do
  if [ -x "$found/etcd" ]; then
    [ "${1:-}" = --check ] || echo "$found"
    exit 0
  fi
done
[ "${1:-}" != --check ] || exit 1

# What the modules need decides, not what is called go here.
wanted=$(awk '$1 == "go" { print $2 }' "$servers/etcd-3.6/go.mod")
found=$(cd / && go env GOVERSION 2>/dev/null) || found=
if [ -n "$found" ] && [ "$(printf '%s\n' "$wanted" "${found#go}" | sort -V | sed -n 1p)" = "$wanted" ]; then
  echo "building etcd 3.6 with ${found} (a minute or two, once)" >&2
  exec "$servers/install-etcd.sh" 3.6
fi
echo "no etcd in PATH and no Go $wanted to build one: taking the distribution's packages" >&2
exec "$servers/install-etcd.sh" distribution
