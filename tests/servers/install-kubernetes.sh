#!/usr/bin/env bash
# Puts what a kubeadm control plane runs into the test cache and prints its
# directory: the programs of Kubernetes, containerd and crictl, each built from
# its Go modules, and the images of the control plane, made of them. Directories in the cache are complete: each is built beside its
# place and renamed. Runs side by side wait for each other.
#
#   install-kubernetes.sh kubernetes|containerd|crictl|images
#
# The cache is $ETCDVAULT_TEST_CACHE, else ~/.cache/etcdvault-test.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
cache=${ETCDVAULT_TEST_CACHE:-$HOME/.cache/etcdvault-test}

fail() { echo "install-kubernetes.sh: $*" >&2; exit 1; }

# The version of module $2 that $1/go.mod requires.
version() { awk -v module="$2" '$1 == "require" { shift = 1 } $(1 + shift) == module { v = substr($(2 + shift), 2) } { shift = 0 } END { print v }' "$here/$1/go.mod"; }

part=${1:-}
case $part in
  kubernetes) module=k8s.io/kubernetes; program=kubelet ;;
  containerd) module=github.com/containerd/containerd/v2; program=containerd ;;
  crictl) module=sigs.k8s.io/cri-tools; program=crictl ;;
  images) ;;
  *) fail "which part? kubernetes, containerd, crictl or images (got '$part')" ;;
esac
if [ "$part" = images ]; then
  kubernetes=$("$0" kubernetes)
  etcd=$("$here/install-etcd.sh" 3.6)
  # kubeadm of this version asks for this pause image, and so does config.toml.
  pause=$(sed -n 's/.*pause:\(.*\).$/\1/p' "$here/kubernetes/root/etc/containerd/config.toml")
  version=${kubernetes##*-}-${etcd##*/}-pause-$pause
else
  version=$(version "$part" "$module")
  [ -n "$version" ] || fail "no version of $module in $part/go.mod"
fi

target=$cache/$part-$version
if [ -d "$target" ]; then echo "$target"; exit 0; fi

mkdir -p "$cache"
exec 9>"$cache/.$part-$version.lock"
flock 9
if [ -d "$target" ]; then echo "$target"; exit 0; fi

# The lock is ours, so what an interrupted run left is nobody's.
rm -rf "$cache/.building-$part-$version".*
build=$(mktemp -d "$cache/.building-$part-$version.XXXXXX")
trap 'rm -rf "$build"' EXIT
mkdir "$build/out"

from_modules() {
  # A program built from modules does not know its version; kubeadm and the API
  # server's clients ask for it.
  case $part in
    kubernetes)
      at=k8s.io/component-base/version
      IFS=. read -r major minor _ <<<"$version"
      told="-X $at.gitVersion=v$version -X $at.gitMajor=$major -X $at.gitMinor=$minor" ;;
    containerd) told="-X $module/version.Version=v$version" ;;
    crictl) told="-X $module/pkg/version.Version=v$version" ;;
  esac
  command -v go >/dev/null || fail "go is not in PATH; $part is built from its modules"
  (cd "$here/$part" &&
    CGO_ENABLED=0 go build -mod=readonly -trimpath -buildvcs=false -ldflags "-s -w $told" -o "$build/out/" tool) >&2
  "$build/out/$program" --version | grep -qF "v$version" || fail "$program does not call itself v$version"
  chmod 755 "$build"/out/*
}

from_programs() {
  local image=$here/kubernetes/image.py program of=registry.k8s.io tag=v${kubernetes##*-}
  # The first process of a pod waits for the signal that ends it.
  printf '%s\n' '#include <signal.h>' '#include <stdlib.h>' '#include <unistd.h>' \
    'static void end(int signal) { (void)signal; _exit(0); }' \
    'int main(void) { signal(SIGTERM, end); signal(SIGINT, end); for (;;) pause(); }' |
    cc -static -Os -s -x c -o "$build/pause" -
  "$image" "$of/pause:$pause" "$build/out/pause.tar" / "$build/pause"
  "$image" "$of/etcd:${etcd##*-}-0" "$build/out/etcd.tar" /usr/local/bin "$etcd"/{etcd,etcdctl,etcdutl}
  for program in kube-apiserver kube-controller-manager kube-scheduler; do
    "$image" "$of/$program:$tag" "$build/out/$program.tar" /usr/local/bin "$kubernetes/$program"
  done
}

if [ "$part" = images ]; then from_programs; else from_modules; fi
mv -T "$build/out" "$target"
echo "$target"
