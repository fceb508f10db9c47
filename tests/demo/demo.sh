#!/usr/bin/env bash
# Backs up a real three-member etcd, destroys it, restores it and proves that it
# is the same store. Every line that begins with `$` can be typed again, in an
# empty directory. Exits non-zero when anything that it claims is not true, and
# leaves nothing running.
#
#   demo.sh            KEEP=1 keeps the directory with vault, data and logs
set -euo pipefail

root=$(cd "$(dirname "$0")/../.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}/debug
etcd=$("$root/tests/demo/find-etcd.sh")
cache=${ETCDVAULT_TEST_CACHE:-$HOME/.cache/etcdvault-test}
started=$SECONDS
members=(m1 m2 m3)
pids=()
work=$(mktemp -d "${TMPDIR:-/tmp}/etcdvault-demo.XXXXXX")

if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then bold=$'\e[1m' dim=$'\e[2m' plain=$'\e[0m'; else bold='' dim='' plain=''; fi
say() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }
saw() { printf '  -> %s\n' "$*"; }
fail() { printf '\ndemo: %s\n' "$*" >&2; exit 1; }
# run COMMAND-LINE: prints it and runs it in this shell.
run() { printf '%s$ %s%s\n' "$dim" "$1" "$plain"; eval "$1"; }
# same WHAT BEFORE AFTER
same() { [ "$2" = "$3" ] || fail "$1 was $2 and is $3"; }

cleanup() {
  local status=$?
  trap - EXIT INT TERM HUP
  set +e
  if [ ${#pids[@]} -gt 0 ]; then
    kill -9 "${pids[@]}" 2>/dev/null
    wait "${pids[@]}" 2>/dev/null
  fi
  cd /
  case ${KEEP:+kept}$status in
    0 | 129 | 130 | 143) rm -rf "$work" ;;
    *) printf '\nkept: %s (vault, data, m1.log m2.log m3.log)\n' "$work" >&2 ;;
  esac
  exit "$status"
}
trap cleanup EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# A port that nobody listens on, held by a lock against tests that run beside us.
mkdir -p "$cache/ports"
free_port() {
  local lock
  for _ in $(seq 200); do
    port=$((12000 + RANDOM % 20000))
    exec {lock}>"$cache/ports/$port"
    if flock -n "$lock" && ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then return; fi
    exec {lock}>&-
  done
  fail "no free port"
}

cd "$work"
export PATH=$target:$etcd:$PATH
unset "${!ETCD_@}" "${!ETCDCTL_@}" "${!ETCDVAULT_@}"
say "1. A three-member etcd with TLS in $work"
saw "etcdvault: $target/etcdvault ($(etcdvault --version))"
saw "etcd:      $etcd/etcd ($(etcd --version | sed -n 1p))"
run "export PATH=$target:$etcd:\$PATH"

key='-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes'
run "openssl req -x509 $key -days 30 -subj /CN=demo-ca -keyout ca.key -out ca.crt 2>/dev/null"
run "printf 'subjectAltName=IP:127.0.0.1,DNS:localhost\nextendedKeyUsage=serverAuth,clientAuth\n' > extensions"
for name in member root; do
  run "openssl req $key -subj /CN=$name -keyout $name.key -out $name.csr 2>/dev/null"
  run "openssl x509 -req -in $name.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -extfile extensions -out $name.crt 2>/dev/null"
done

declare -A client peer
initial='' endpoints=''
for m in "${members[@]}"; do
  free_port; client[$m]=https://127.0.0.1:$port
  free_port; peer[$m]=https://127.0.0.1:$port
  initial+=${initial:+,}$m=${peer[$m]}
  endpoints+=${endpoints:+,}${client[$m]}
done
run "export ETCD_TRUSTED_CA_FILE=ca.crt ETCD_CERT_FILE=member.crt ETCD_KEY_FILE=member.key ETCD_CLIENT_CERT_AUTH=true"
run "export ETCD_PEER_TRUSTED_CA_FILE=ca.crt ETCD_PEER_CERT_FILE=member.crt ETCD_PEER_KEY_FILE=member.key ETCD_PEER_CLIENT_CERT_AUTH=true"
run "export ETCD_INITIAL_CLUSTER=$initial"
# etcdctl of 3.4 wants to be told; later ones warn when they are.
api=''
if [[ $(etcd --version | sed -n 1p) == *" 3.4."* ]]; then api='ETCDCTL_API=3 '; fi
run "export ${api}ETCDCTL_ENDPOINTS=$endpoints ETCDCTL_CACERT=ca.crt ETCDCTL_CERT=root.crt ETCDCTL_KEY=root.key"

start_members() {
  local m
  pids=()
  for m in "${members[@]}"; do
    run "etcd --name $m --data-dir $m --listen-client-urls ${client[$m]} --advertise-client-urls ${client[$m]} --listen-peer-urls ${peer[$m]} --initial-advertise-peer-urls ${peer[$m]} --initial-cluster-token demo > $m.log 2>&1 &"
    pids+=($!)
  done
  for _ in $(seq 150); do
    if etcdctl endpoint health --command-timeout=2s >/dev/null 2>&1; then
      run "etcdctl endpoint health"
      return
    fi
    for m in "${!pids[@]}"; do
      kill -0 "${pids[$m]}" 2>/dev/null || { tail -n 5 "${members[$m]}.log" >&2; fail "${members[$m]} ended by itself"; }
    done
    sleep 0.2
  done
  tail -n 5 ./*.log >&2
  fail "the members are not healthy after 30 s"
}

# ask VARIABLE COMMAND-LINE: prints it, runs it, prints what it said and keeps that.
ask() {
  local answer
  printf '%s$ %s%s\n' "$dim" "$2" "$plain"
  answer=$(eval "$2")
  printf '%s\n' "$answer"
  printf -v "$1" %s "$answer"
}

# facts PREFIX: what the running cluster holds, as etcdctl tells it, in shell
# variables PREFIX_hash, PREFIX_revision and so on.
facts() {
  local hashes
  run "etcdctl endpoint hashkv --write-out=table"
  ask hashes "etcdctl endpoint hashkv --write-out=json | jq -r '.[].HashKV.hash'"
  [ "$(wc -l <<<"$hashes")" = 3 ] || fail "not every member gave a HashKV"
  [ "$(sort -u <<<"$hashes" | wc -l)" = 1 ] || fail "the members' HashKV differ: $hashes"
  printf -v "$1_hash" %s "$(sed -n 1p <<<"$hashes")"
  ask "$1_cluster" "etcdctl endpoint status --write-out=json | jq -r '.[0].Status.header.cluster_id'"
  ask "$1_revision" "etcdctl endpoint status --write-out=json | jq -r '[.[].Status.header.revision] | max'"
  ask "$1_compacted" "etcdctl endpoint hashkv --write-out=json | jq -r '.[0].HashKV.compact_revision'"
  ask "$1_keys" "etcdctl get '' --prefix --count-only --write-out=fields | awk '/\"Count\"/ { print \$3 }'"
  ask "$1_versions" "etcdctl get /registry/leases/ --prefix --keys-only --write-out=json | jq -r '[.kvs[].version] | max'"
  ask "$1_big" "etcdctl get /big/1MiB --write-out=json | jq -r '.kvs[0].value' | base64 -d | sha256sum | cut -c 1-16"
  ask "$1_leases" "etcdctl lease list --write-out=json | jq -r '.leases | length'"
  ask "$1_users" "etcdctl user list --write-out=json | jq -r '.users | length'"
  ask "$1_roles" "etcdctl role list --write-out=json | jq -r '.roles | length'"
}

start_members
say "2. Filled with what real clusters hold"
run "etcd-fill --endpoints $endpoints --cacert ca.crt --cert root.crt --key root.key --objects 5000"
run "etcdctl auth enable"
run "etcdctl lease list | sed -n 1,3p"
run "etcdctl user list"
run "etcdctl role list"
run "etcdvault status"
facts before
[ "$before_keys" -gt 4000 ] || fail "only $before_keys keys"
[ "$before_versions" -gt 100 ] || fail "no key has more than $before_versions versions"
[ "$before_compacted" -gt 1 ] && [ "$before_compacted" -lt "$before_revision" ] || fail "compacted at $before_compacted"
[ "$before_leases" -gt 5 ] && [ "$before_users" = 2 ] && [ "$before_roles" = 2 ] || fail "leases, users or roles are missing"
saw "revision $before_revision (compacted at $before_compacted), $before_keys keys, one with $before_versions versions, a value of 1 MiB,"
saw "$before_leases leases, $before_users users, $before_roles roles, authentication on; all three members: HashKV $before_hash"

say "3. Backed up to a vault"
run "etcdvault init vault --no-encryption"
run "etcdvault backup --vault vault --cluster demo"
run "etcdvault list --vault vault"
run "etcdvault verify --vault vault latest"

say "4. Destroyed"
run 'kill -9 $(jobs -p)'
wait "${pids[@]}" 2>/dev/null || true
pids=()
run "rm -rf ${members[*]}"
for m in "${members[@]}"; do [ ! -e "$m" ] || fail "$m is still there"; done
if run "etcdctl endpoint health --command-timeout=1s 2>&1 | tail -n 1; [ \${PIPESTATUS[0]} = 0 ]"; then fail "the killed cluster answers"; fi
saw "no member answers, no data directory is left; there is the vault"

say "5. Restored from the vault"
for m in "${members[@]}"; do
  run "etcdvault restore data-dir latest --vault vault --data-dir $m --name $m --initial-cluster \$ETCD_INITIAL_CLUSTER --initial-cluster-token demo-restored --initial-advertise-peer-urls ${peer[$m]} --bump-revision 0"
done
start_members

say "6. Proven to be the same store"
facts after
printf '\n  %-20s %-20s %s\n' '' BEFORE AFTER
for what in hash revision compacted keys versions big leases users roles; do
  before=before_$what after=after_$what
  case $what in
    hash) text='HashKV, 3 members' ;; versions) text='versions of a key' ;; big) text='SHA-256 of 1 MiB' ;;
    compacted) text='compacted at' ;; *) text=$what ;;
  esac
  printf '  %-20s %-20s %s\n' "$text" "${!before}" "${!after}"
done
for what in hash revision compacted keys versions big leases users roles; do
  before=before_$what after=after_$what
  same "$what" "${!before}" "${!after}"
done
[ "$before_cluster" != "$after_cluster" ] || fail "the restored cluster has the old cluster id"
run "etcdctl put /after/the/restore works"
[ "$(etcdctl get /after/the/restore --print-value-only)" = works ] || fail "what was written cannot be read"
if env -u ETCDCTL_CERT -u ETCDCTL_KEY etcdctl get /after/the/restore --command-timeout=2s >/dev/null 2>&1; then
  fail "the restored cluster serves a client without a certificate"
fi
took=$((SECONDS - started))
saw "the same store, revision for revision, in a new cluster that takes writes; $took s"
[ "$took" -lt 60 ] || fail "it took $took s, and less than 60 are promised"
