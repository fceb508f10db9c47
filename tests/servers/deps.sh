#!/usr/bin/env bash
# Checks what a distribution cannot give (Rust, Go) and installs what it can.
#
#   deps.sh build|demo|test|bench|dist|fuzz
#
# Only what is missing is installed, with apt-get, through sudo when not root.
set -euo pipefail

root=$(cd "$(dirname "$0")/../.." && pwd)
purpose=${1:?deps.sh build|demo|test|bench|dist|fuzz}

fail() { printf '%s\n' "$@" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }
# at_least WANTED FOUND
at_least() { [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | sed -n 1p)" = "$1" ]; }

rust=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$root/Cargo.toml" | sed -n 1p)
have cargo || fail "etcdvault needs Rust $rust or newer, and there is no cargo in PATH." \
  "Install it as https://rustup.rs says; a distribution's own package is mostly too old."
found=$(cargo --version | awk '{ print $2 }')
at_least "$rust" "${found%%-*}" ||
  fail "etcdvault needs Rust $rust or newer; this is $found (rustup update stable)."

# Go builds the test servers. The demo takes an etcd that is there already.
needs_go() {
  case $purpose in
    test) true ;;
    demo) ! "$root/tests/demo/find-etcd.sh" --check ;;
    bench) ! compgen -G "${ETCDVAULT_TEST_CACHE:-$HOME/.cache/etcdvault-test}/etcd-3.6.*/etcd" >/dev/null ;;
    *) false ;;
  esac
}
go=$(awk '$1 == "go" { print $2 }' "$root"/tests/servers/*/go.mod | sort -V | tail -n 1)
if needs_go; then
  if ! have go && [ "$purpose" != demo ]; then
    fail "the test servers are built with Go ${go%.0} or newer, and there is no go in PATH." \
      "Install it as https://go.dev/doc/install says."
  fi
  if have go; then
    # Run outside any module, where no go.mod chooses a toolchain.
    found=$(cd / && go env GOVERSION)
    at_least "$go" "${found#go}" || [ "$purpose" = demo ] ||
      fail "the test servers are built with Go ${go%.0} or newer; this is ${found#go}."
  fi
fi

missing=()
# program PROGRAM PACKAGE: the package is installed when the program is not there.
program() { have "$1" || missing+=("$2"); }

program cc gcc
[ -e /usr/include/stdio.h ] || missing+=(libc6-dev)
program protoc protobuf-compiler
[ -e /usr/include/google/protobuf/any.proto ] || [ -e /usr/local/include/google/protobuf/any.proto ] ||
  missing+=(libprotobuf-dev)
case $purpose in
  demo) program openssl openssl; program jq jq; program setpriv util-linux ;;
  test)
    program setpriv util-linux; program openssl openssl; program age age; program zstd zstd
    program systemd-analyze systemd; program strace strace
    program jq jq; program python3 python3; [ -x /usr/sbin/dnsmasq ] || missing+=(dnsmasq-base)
    # The test hosts.
    program mmdebstrap mmdebstrap; program systemd-nspawn systemd-container; program ip iproute2
    program ssh openssh-client; program unshare util-linux; program mount mount
    [ -x /usr/sbin/sshd ] || missing+=(openssh-server)
    program haproxy haproxy
    [ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || missing+=(debian-archive-keyring)
    python3 -m pip --version >/dev/null 2>&1 || missing+=(python3-pip) ;;
  bench)
    program setpriv util-linux; program zstd zstd; program curl curl; program python3 python3
    # The hosts of the part about nodes.
    program mmdebstrap mmdebstrap; program systemd-nspawn systemd-container; program ip iproute2
    program ssh openssh-client; program unshare util-linux; program mount mount
    [ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || missing+=(debian-archive-keyring)
    python3 -m pip --version >/dev/null 2>&1 || missing+=(python3-pip) ;;
  fuzz) program c++ g++ ;;
  dist)
    program objdump binutils; program mmdebstrap mmdebstrap; program python3 python3
    python3 -m pip --version >/dev/null 2>&1 || missing+=(python3-pip)
    [ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || missing+=(debian-archive-keyring) ;;
esac

if [ ${#missing[@]} -gt 0 ]; then
  have apt-get || fail "missing here: ${missing[*]} (named as Debian's packages; no apt-get to install them)"
  as_root=()
  if [ "$(id -u)" != 0 ]; then
    have sudo || fail "missing here: ${missing[*]}; installing them needs root or sudo"
    as_root=(sudo)
  fi
  echo "installing ${missing[*]}" >&2
  # The tests start sshd themselves; the package must not start one for this machine.
  if [[ " ${missing[*]} " == *" openssh-server "* ]] && have systemctl; then
    "${as_root[@]}" systemctl mask --quiet ssh.service ssh.socket || true
  fi
  install=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y
    --no-install-recommends "${missing[@]}")
  "${install[@]}" >/dev/null 2>&1 || { "${as_root[@]}" apt-get update -qq; "${install[@]}" >/dev/null; }
fi
