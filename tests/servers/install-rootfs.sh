#!/usr/bin/env bash
# Makes the root file system of the test hosts, one Debian release, in the test
# cache and prints its directory: systemd, sshd and that release's own etcd (not
# enabled), no host keys, no machine id. The directory is complete: it is made
# beside its place and renamed. Runs side by side wait for each other. Its name
# holds this script's digest, so that a changed recipe makes a new one.
#
#   install-rootfs.sh bookworm|trixie
#
# The cache is $ETCDVAULT_TEST_CACHE, else ~/.cache/etcdvault-test. Needs root.
set -euo pipefail

cache=${ETCDVAULT_TEST_CACHE:-$HOME/.cache/etcdvault-test}
fail() { echo "install-rootfs.sh: $*" >&2; exit 1; }

packages=systemd,systemd-sysv,dbus,openssh-server,sudo,iproute2,iptables,procps,ca-certificates
packages+=,etcd-server,etcd-client
suite=${1:-}
case $suite in
  bookworm) packages+=,runc,conntrack,kmod ;; # what kubelet asks for
  trixie) ;;
  *) fail "which release? bookworm or trixie (got '$suite')" ;;
esac
name=host-$suite-$(sha256sum "$0" | cut -c 1-12)
target=$cache/$name
if [ -d "$target" ]; then echo "$target"; exit 0; fi

[ "$(id -u)" = 0 ] || fail "the test hosts' file systems are made by root (owners, device nodes)"
mkdir -p "$cache"
exec 9>"$cache/.$name.lock"
flock 9
if [ -d "$target" ]; then echo "$target"; exit 0; fi

# The lock is ours, so what an interrupted run left is nobody's.
rm -rf --one-file-system "$cache/.building-$name".*
build=$(mktemp -d "$cache/.building-$name.XXXXXX")
trap 'rm -rf --one-file-system "$build"' EXIT
root=$build/root

mmdebstrap --quiet --variant=minbase --include="$packages" \
  --aptopt='APT::Install-Recommends "false"' \
  --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
  --dpkgopt='path-exclude=/usr/share/man/*' \
  "$suite" "$root" "${DEBIAN_MIRROR:-http://deb.debian.org/debian}" >&2

# Debian has a group `operator`, which no package uses.
chroot "$root" useradd --create-home --gid operator --shell /bin/bash operator
echo 'operator ALL=(ALL) NOPASSWD: ALL' >"$root/etc/sudoers.d/operator"
chmod 440 "$root/etc/sudoers.d/operator"

# The harness gives each host its own.
rm -f "$root"/etc/ssh/ssh_host_*_key* "$root/etc/resolv.conf" "$root/etc/hostname"
: >"$root/etc/machine-id"
rm -rf "$root"/var/lib/etcd "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
install -d -o "$(chroot "$root" id -u etcd)" -g "$(chroot "$root" id -g etcd)" -m 700 "$root/var/lib/etcd"

# The journal is kept, as a server's is, and goes to the console, where the
# harness keeps it as text.
install -d "$root/etc/systemd/journald.conf.d"
cat >"$root/etc/systemd/journald.conf.d/host.conf" <<'C'
[Journal]
Storage=persistent
ReadKMsg=no
ForwardToConsole=yes
MaxLevelConsole=info
C
# Addresses are known to the harness alone; `host0` is the container's interface.
cat >"$root/etc/systemd/system/host-network.service" <<'C'
[Unit]
Description=Addresses of the test host
DefaultDependencies=no
After=systemd-tmpfiles-setup.service
Before=network-pre.target network.target network-online.target
Wants=network.target
[Service]
Type=oneshot
RemainAfterExit=yes
EnvironmentFile=/etc/host-network
ExecStart=/sbin/ip link set lo up
ExecStart=/sbin/ip address add ${ADDRESS} dev host0
ExecStart=/sbin/ip link set host0 up
[Install]
WantedBy=multi-user.target
C
systemctl --root="$root" --quiet enable host-network.service ssh.service
systemctl --root="$root" --quiet disable etcd.service
# What a host of a few seconds never needs.
systemctl --root="$root" --quiet mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer \
  fstrim.timer systemd-tmpfiles-clean.timer console-getty.service e2scrub_all.timer e2scrub_reap.service \
  systemd-firstboot.service ssh.socket 2>/dev/null

mv -T "$root" "$target"
echo "$target"
