#!/usr/bin/env python3
"""Measures etcdvault against etcdctl, etcdutl and zstd.

Every piece of work is done in turns, us and the peers on the same database and
server, the order reversed every other time; what is reported is the median of
the ratios of runs that lie side by side, and their spread. Wall and CPU time
come from the kernel's accounting of the processes (wait4), the resident peak
too; the anonymous peak is sampled from /proc every few milliseconds, so a very
short spike may be higher. Before each run everything dirty is written to disk
(sync), and files that a run reads are in the page cache.

The database is made by etcd-fill once and kept in the test cache.
"""

import argparse
import base64
import hashlib
import json
import os
import platform
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
CACHE = Path(os.environ.get("ETCDVAULT_TEST_CACHE", Path.home() / ".cache/etcdvault-test"))
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
MEGABYTE = 1_000_000
SAMPLE_SECONDS = 0.004
RUN_BOUND_SECONDS = 1800
PARTS = ["backup", "s3", "restore", "inspect", "verify", "node", "start"]


@dataclass
class Sample:
    """One run of one contestant; several commands in a row add up."""

    wall: float = 0.0
    cpu: float = 0.0
    server_cpu: float = 0.0
    rss: int = 0
    anonymous: int = 0


@dataclass
class Contestant:
    """Who does the work: its commands, and what is done before and after, unmeasured."""

    name: str
    commands: list
    before: callable = lambda: None
    after: callable = lambda: None
    environment: dict = field(default_factory=dict)
    codes: tuple = (0,)


def clean_environment(more):
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("ETCD", "AWS_"))}
    return {**kept, "ETCDCTL_API": "3", "AWS_EC2_METADATA_DISABLED": "true", **more}


def run(command, **more):
    """Runs a command that is not measured; shows what it said when it fails."""
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True,
        env=clean_environment(more), timeout=RUN_BOUND_SECONDS, check=False)
    if done.returncode != 0:
        sys.exit(f"bench: {' '.join(map(str, command))}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def anonymous_of(pid):
    """Anonymous resident memory of a process in bytes, 0 when it is gone."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as status:
            for line in status:
                if line.startswith("RssAnon:"):
                    return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    return 0


def measure(command, environment, codes, log):
    """Runs one command and returns its Sample."""
    peak = 0
    done = threading.Event()

    def watch(pid):
        nonlocal peak
        while not done.wait(SAMPLE_SECONDS):
            peak = max(peak, anonymous_of(pid))

    with open(log, "ab") as output:
        start = time.monotonic()
        child = subprocess.Popen(
            [str(part) for part in command], stdin=subprocess.DEVNULL, stdout=output,
            stderr=output, env=clean_environment(environment))
        watcher = threading.Thread(target=watch, args=(child.pid,))
        watcher.start()
        bound = threading.Timer(RUN_BOUND_SECONDS, child.kill)
        bound.start()
        try:
            _, status, usage = os.wait4(child.pid, 0)
        finally:
            wall = time.monotonic() - start
            bound.cancel()
            done.set()
            watcher.join()
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode not in codes:
        text = Path(log).read_text(errors="replace")[-2000:]
        sys.exit(f"bench: {' '.join(map(str, command))}: exit {child.returncode}\n{text}")
    return Sample(wall, usage.ru_utime + usage.ru_stime, 0.0, usage.ru_maxrss * 1024, peak)


def cpu_of(pid):
    """CPU seconds of a running process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def in_turns(contestants, runs, server, log):
    """Every contestant once unmeasured, then `runs` times in turns."""
    samples = {contestant.name: [] for contestant in contestants}
    for turn in range(runs + 1):
        order = contestants if turn % 2 == 0 else list(reversed(contestants))
        for contestant in order:
            contestant.before()
            os.sync()
            total = Sample()
            before = cpu_of(server) if server else 0.0
            for command in contestant.commands:
                part = measure(command, contestant.environment, contestant.codes, log)
                total.wall += part.wall
                total.cpu += part.cpu
                total.rss = max(total.rss, part.rss)
                total.anonymous = max(total.anonymous, part.anonymous)
            total.server_cpu = cpu_of(server) - before if server else 0.0
            contestant.after()
            if turn > 0:
                samples[contestant.name].append(total)
    return samples


def spread(values):
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def free_ports(count):
    """Ports below the ephemeral range that nobody listens on."""
    found, number = [], 11_000 + os.getpid() % 500
    while len(found) < count and number < 30_000:
        number += 1
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", number)) != 0:
                found.append(number)
    return found


class Bench:
    def __init__(self, args):
        self.args = args
        self.ours = args.etcdvault.resolve()
        self.etcd = Path(run([ROOT / "tests/servers/install-etcd.sh", "3.6"]).strip())
        (CACHE / "bench").mkdir(parents=True, exist_ok=True)
        self.work = Path(tempfile.mkdtemp(prefix="work.", dir=CACHE / "bench"))
        self.log = self.work / "commands.log"
        self.processes = []
        self.hosts = None
        self.size = None
        self.groups = {}
        self.rows = []

    def close(self):
        for process in self.processes:
            process.kill()
            process.wait()
        if self.hosts:
            # They end with their standard input, and clean up behind themselves.
            self.hosts.stdin.close()
            self.hosts.wait(120)
        shutil.rmtree(self.work, ignore_errors=True)

    # --- servers ---

    def start(self, command, log, **environment):
        with open(self.work / log, "ab") as output:
            # The kernel ends it when we end, whatever way that is.
            command = ["setpriv", "--pdeathsig", "KILL", "--", *map(str, command)]
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                env=clean_environment(environment))
        self.processes.append(process)
        return process

    def wait(self, what, ready, process, log):
        for _ in range(600):
            if process.poll() is not None:
                sys.exit(f"bench: {what} ended\n{(self.work / log).read_text()[-2000:]}")
            if ready():
                return
            time.sleep(0.1)
        sys.exit(f"bench: {what} is not ready after 60 s")

    def start_etcd(self, data, *more):
        client, peer = free_ports(2)
        self.endpoint = f"http://127.0.0.1:{client}"
        peers = f"http://127.0.0.1:{peer}"
        self.server = self.start([
            self.etcd / "etcd", "--data-dir", data, "--quota-backend-bytes", str(16 << 30),
            "--listen-client-urls", self.endpoint, "--advertise-client-urls", self.endpoint,
            "--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers,
            "--initial-cluster", f"default={peers}", "--auto-compaction-retention", "0",
            "--force-new-cluster", *more], "etcd.log")
        healthy = [str(self.etcd / "etcdctl"), "--endpoints", self.endpoint, "endpoint", "health"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.wait("etcd", lambda: subprocess.run(
            healthy, env=clean_environment({}), check=False, **quiet).returncode == 0,
            self.server, "etcd.log")

    def stop_etcd(self):
        self.server.send_signal(signal.SIGTERM)
        self.server.wait(30)
        self.processes.remove(self.server)

    def make_database(self):
        """The data directory of a filled etcd, from the cache or made now."""
        recipe = hashlib.sha256()
        for source in sorted((ROOT / "tests/harness/src").glob("fill*/*.rs")):
            recipe.update(source.read_bytes())
        recipe.update((ROOT / "tests/harness/src/fill.rs").read_bytes())
        name = f"{self.args.bytes}-{self.etcd.name}-{recipe.hexdigest()[:12]}"
        kept = CACHE / "bench" / name
        if not kept.exists():
            print(f"making a database of {self.args.bytes / 1e9:g} GB", flush=True)
            made = self.work / "made"
            self.start_etcd(made, "--unsafe-no-fsync")
            objects = max(1000, min(40_000, self.args.bytes // 25_000))
            print("  " + run([
                TARGET / "debug/etcd-fill", "--endpoints", self.endpoint, "--parallel", "8",
                "--objects", str(objects), "--database-bytes", str(self.args.bytes)]).strip(), flush=True)
            self.stop_etcd()
            os.rename(made, kept)
        self.kept = kept

    def start_server(self):
        """etcd on a copy of the data directory."""
        data = self.work / "data"
        run(["cp", "-a", "--reflink=auto", self.kept, data])
        self.start_etcd(data)

    # --- the work ---

    def record(self, work, contestants, server=None):
        samples = in_turns(contestants, self.args.runs, server, self.log)
        self.groups[work] = samples
        ours = samples[contestants[0].name]
        print(f"\n{work}")
        for contestant in contestants:
            mine = samples[contestant.name]
            wall = spread([sample.wall for sample in mine])
            line = (f"  {contestant.name:<44} {wall['median']:7.3f} s "
                    f"({wall['low']:.3f} to {wall['high']:.3f})  "
                    f"cpu {statistics.median(s.cpu for s in mine):6.2f} s  "
                    f"anon {max(s.anonymous for s in mine) / MEGABYTE:6.1f} MB  "
                    f"rss {max(s.rss for s in mine) / MEGABYTE:6.1f} MB")
            if server:
                line += f"  server cpu {statistics.median(s.server_cpu for s in mine):.2f} s"
            print(line, flush=True)
        return ours, samples

    def ratio(self, work, ours, peer, peer_name, bar):
        ratios = spread([a.wall / b.wall for a, b in zip(ours, peer)])
        self.row(f"{work} / {peer_name}", ratios, bar, "×")

    def row(self, what, value, bar, unit):
        met = bar is None or value["median"] <= bar
        self.rows.append({"what": what, **value, "bar": bar, "unit": unit, "met": met})

    def single(self, what, value, bar, unit):
        self.row(what, {"median": value, "low": value, "high": value}, bar, unit)

    def memory(self, what, samples, bar):
        self.row(what, spread([s.anonymous / MEGABYTE for s in samples]), bar, "MB")

    def peers_save(self, path):
        return [self.etcd / "etcdctl", "--endpoints", self.endpoint, "snapshot", "save", path]

    def empty(self, path):
        shutil.rmtree(path, ignore_errors=True)
        Path(path).unlink(missing_ok=True)

    def new_vault(self, path):
        self.empty(path)
        run([self.ours, "init", path, "--no-encryption"])

    def backup(self, vault):
        return [self.ours, "backup", "--vault", vault, "--cluster", "bench", "--quiet",
                "--endpoints", self.endpoint]

    def prepare(self):
        self.snapshot = self.work / "snapshot.db"
        run(self.peers_save(self.snapshot))
        self.compressed = self.work / "snapshot.db.zst"
        run(["zstd", "-3", "-T2", "-q", "-f", self.snapshot, "-o", self.compressed])
        self.vault = self.work / "vault"
        self.new_vault(self.vault)
        run(self.backup(self.vault))
        status = json.loads(run([self.etcd / "etcdutl", "snapshot", "status", self.snapshot, "-w", "json"]))
        inside = json.loads(run([self.ours, "inspect", self.snapshot, "--json"]))
        self.records = next(bucket["entries"] for bucket in inside["buckets"] if bucket["name"] == "key")
        self.size = self.snapshot.stat().st_size
        print(f"snapshot: {self.size:,} bytes, {self.records:,} records, revision {status['revision']}, "
              f"zstd -3: {self.compressed.stat().st_size:,} bytes "
              f"({self.size / self.compressed.stat().st_size:.2f}:1)", flush=True)
        stored = max(self.vault.rglob("snapshot.db.zst*"), key=lambda path: path.stat().st_size)
        self.single("stored size / zstd -3", stored.stat().st_size / self.compressed.stat().st_size, 1.03, "×")

    def bench_backup(self):
        out, packed, vault = self.work / "out.db", self.work / "out.zst", self.work / "vault-b"
        pack = ["zstd", "-3", "-T2", "-q", "-f", out, "-o", packed]

        def gone():
            for path in (out, packed):
                self.empty(path)

        ours, samples = self.record("backup to a local vault", [
            Contestant("etcdvault backup", [self.backup(vault)], lambda: self.new_vault(vault), lambda: self.empty(vault)),
            Contestant("etcdctl snapshot save", [self.peers_save(out)], gone, gone),
            Contestant("etcdctl save, then zstd -3 -T2", [self.peers_save(out), pack], gone, gone),
        ], self.server.pid)
        self.ratio("backup", ours, samples["etcdctl save, then zstd -3 -T2"], "(etcdctl save + zstd -3 -T2)", 0.75)
        self.ratio("backup", ours, samples["etcdctl snapshot save"], "etcdctl save", 1.25)
        self.memory("backup, peak anonymous memory", ours, 64 + 48 * self.records / MEGABYTE)

    def bench_s3(self):
        program = Path(run([ROOT / "tests/servers/install-s3.sh", "seaweedfs"]).strip()) / "weed"
        store = self.work / "s3"
        store.mkdir()
        identities = {"identities": [{"name": "bench", "credentials": [{"accessKey": "bench", "secretKey": "bench-secret"}],
                                      "actions": ["Admin", "Read", "List", "Tagging", "Write"]}]}
        (self.work / "s3.json").write_text(json.dumps(identities))
        ports = free_ports(8)
        flags = [f"-{server}.{kind}={ports.pop()}" for server in ("master", "volume", "filer", "s3") for kind in ("port", "port.grpc")]
        port = next(flag for flag in flags if flag.startswith("-s3.port=")).partition("=")[2]
        url = f"http://127.0.0.1:{port}"
        process = self.start([
            program, "server", "-s3", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false",
            "-master.volumeSizeLimitMB=1024", "-volume.max=64", f"-dir={store}",
            f"-s3.config={self.work / 's3.json'}", *flags], "s3.log", HOME=str(self.work))
        curl = ["curl", "--silent", "--fail", "--aws-sigv4", "aws:amz:us-east-1:s3", "--user", "bench:bench-secret"]
        made = [*curl, "-X", "PUT", f"{url}/bench"]
        self.wait("SeaweedFS", lambda: subprocess.run(made, capture_output=True, check=False).returncode == 0, process, "s3.log")
        keys = {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench-secret"}
        place = ["--s3-endpoint-url", url, "--s3-region", "us-east-1", "--s3-path-style", "on"]
        out, packed = self.work / "out.db", self.work / "out.zst"
        # Every run has a prefix of its own; the commands' lists are changed in place.
        command = [*self.backup("s3://bench/0"), *place]
        at = command.index("s3://bench/0")
        upload = [*curl, "-T", packed, "-H", "x-amz-content-sha256: UNSIGNED-PAYLOAD", f"{url}/bench/peer/0"]
        count = 0

        def next_vault():
            nonlocal count
            count += 1
            command[at] = f"s3://bench/v{count}"
            run([self.ours, "init", command[at], "--no-encryption", *place], **keys)

        def next_object():
            nonlocal count
            count += 1
            upload[-1] = f"{url}/bench/peer/{count}"
            for path in (out, packed):
                self.empty(path)

        ours, samples = self.record("backup to S3 on loopback (SeaweedFS)", [
            Contestant("etcdvault backup", [command], next_vault, environment=keys),
            Contestant("etcdctl save, zstd -3 -T2, curl upload", [
                self.peers_save(out), ["zstd", "-3", "-T2", "-q", "-f", out, "-o", packed], upload], next_object),
        ], self.server.pid)
        self.ratio("backup to S3", ours, samples["etcdctl save, zstd -3 -T2, curl upload"], "(save + zstd + upload)", 0.75)
        process.kill()

    def bench_restore(self):
        target = self.work / "restored"
        member = ["--name", "m1", "--initial-cluster", "m1=http://127.0.0.1:2380", "--initial-cluster-token", "bench",
                  "--initial-advertise-peer-urls", "http://127.0.0.1:2380"]
        gone = lambda: self.empty(target)
        ours, samples = self.record("restore of a data directory", [
            Contestant("etcdvault restore data-dir, from the vault", [
                [self.ours, "restore", "data-dir", "latest", "--vault", self.vault, "--data-dir", target, "--quiet", *member]], gone, gone),
            Contestant("etcdutl snapshot restore, raw file", [
                [self.etcd / "etcdutl", "snapshot", "restore", self.snapshot, "--data-dir", target, *member]], gone, gone),
        ])
        self.ratio("restore", ours, samples["etcdutl snapshot restore, raw file"], "etcdutl restore of a raw file", 1.1)
        self.memory("restore, peak anonymous memory", ours, 64)

    def bench_inspect(self):
        status = [self.etcd / "etcdutl", "snapshot", "status", self.snapshot, "-w", "json"]
        # etcdutl hashkv opens the file for writing and changes it: it gets a copy.
        copy = self.work / "hashkv.db"
        shutil.copyfile(self.snapshot, copy)
        hashkv = [self.etcd / "etcdutl", "hashkv", copy, "-w", "json"]
        rpc = [self.etcd / "etcdctl", "--endpoints", self.endpoint, "endpoint", "hashkv"]
        contestants = [
            Contestant("etcdvault inspect --skip-hash-check (pages, counts, HashKV)", [[self.ours, "inspect", self.snapshot, "--skip-hash-check", "--json"]]),
            Contestant("etcdutl snapshot status", [status]),
            Contestant("HashKV RPC (etcdctl endpoint hashkv)", [rpc]),
        ]
        # etcdutl hashkv of 3.6.16 panics on a store with keys that have leases
        # ("no lessor to attach lease"); where it does not, it is a peer.
        works = subprocess.run(list(map(str, hashkv)), capture_output=True, check=False).returncode == 0
        if works:
            contestants.append(Contestant("etcdutl hashkv", [hashkv]))
        else:
            print("\netcdutl hashkv fails on this snapshot and is left out")
        ours, samples = self.record("look inside a snapshot, warm", contestants)
        self.ratio("inspect", ours, samples["etcdutl snapshot status"], "etcdutl snapshot status", 0.35)
        self.ratio("offline HashKV (inspect)", ours, samples["HashKV RPC (etcdctl endpoint hashkv)"], "HashKV RPC", 2.0)
        if works:
            self.ratio("inspect", ours, samples["etcdutl hashkv"], "etcdutl hashkv", None)

    def bench_verify(self):
        plain = self.work / "verified.db"
        stored = max(self.vault.rglob("snapshot.db.zst*"), key=lambda path: path.stat().st_size)
        verify = [self.ours, "verify", "latest", "--vault", self.vault, "--quiet", "--level"]
        ours, samples = self.record("verify a backup of the vault, warm", [
            Contestant("etcdvault verify --level content", [[*verify, "content"]]),
            Contestant("zstd -d, then etcdutl snapshot status", [
                ["zstd", "-d", "-q", "-f", stored, "-o", plain],
                [self.etcd / "etcdutl", "snapshot", "status", plain, "-w", "json"]], lambda: self.empty(plain), lambda: self.empty(plain)),
        ])
        self.ratio("verify --level content", ours, samples["zstd -d, then etcdutl snapshot status"],
                   "(zstd -d + etcdutl snapshot status)", 1.0)
        self.memory("verify, peak anonymous memory", ours, 64 + 48 * self.records / MEGABYTE)
        ours, samples = self.record("verify the stored bytes of a backup, warm", [
            Contestant("etcdvault verify --level stored", [[*verify, "stored"]]),
            Contestant("zstd -t and sha256sum", [["zstd", "-t", "-q", stored], ["sha256sum", stored]]),
        ])
        self.ratio("verify --level stored", ours, samples["zstd -t and sha256sum"], "(zstd -t + sha256sum)", None)

    # --- nodes ---

    def start_hosts(self):
        """Three systemd hosts with a member of etcd each; how ssh reaches them."""
        with open(self.work / "hosts.log", "ab") as log:
            process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "--", TARGET / "debug/test-hosts", "etcd-unit", "3"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=clean_environment({}))
        self.hosts = process
        lines = [process.stdout.readline().split() for _ in range(3)]
        if not all(line[:2] == ["ssh", "-F"] for line in lines):
            sys.exit(f"bench: no hosts: {lines}\n{(self.work / 'hosts.log').read_text()[-2000:]}")
        self.ssh_config = lines[0][2]
        return [line[3] for line in lines]

    def on(self, host, *command, stdin=None):
        """Runs a command on a host."""
        done = subprocess.run(["ssh", "-F", self.ssh_config, host, "--", *map(str, command)], stdin=stdin,
                              capture_output=True, text=True, timeout=RUN_BOUND_SECONDS, check=False)
        if done.returncode != 0:
            sys.exit(f"bench: {command} on {host}: exit {done.returncode}\n{done.stderr}")
        return done.stdout

    def send(self, directory, host, to, owner="root"):
        """A directory's content onto a host."""
        tar = subprocess.Popen(["tar", "c", "--sparse", "-C", directory, "."], stdout=subprocess.PIPE)
        self.on(host, f"mkdir -p {to} && tar x -C {to} && chown -R {owner}: {to}", stdin=tar.stdout)
        if tar.wait() != 0:
            sys.exit(f"bench: tar of {directory}")

    def control_plane(self):
        """Files as a control-plane node has them, by number and size."""
        root = self.work / "tree"
        names = [f"pki/{name}.{kind}" for name in (
            "ca", "apiserver", "apiserver-kubelet-client", "apiserver-etcd-client", "front-proxy-ca", "front-proxy-client",
            "etcd/ca", "etcd/server", "etcd/peer", "etcd/healthcheck-client") for kind in ("crt", "key")]
        names += ["pki/sa.key", "pki/sa.pub", *(f"{name}.conf" for name in (
            "admin", "super-admin", "controller-manager", "scheduler", "kubelet"))]
        for name in names:
            path = root / "etc/kubernetes" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(base64.encodebytes(os.urandom(4000 if name.endswith("conf") else 900)).decode())
        return root

    def pack_there(self, host):
        """A zstd on the host as it is here, whatever the host has: the command."""
        directory = self.work / "zstd"
        directory.mkdir()
        zstd = shutil.which("zstd")
        libraries = [word for word in run(["ldd", zstd]).split() if word.startswith("/")]
        for path in [zstd, *libraries]:
            shutil.copy(path, directory)
        loader = next(Path(path).name for path in libraries if "/ld-" in path)
        self.send(directory, host, "/opt/zstd")
        return f"/opt/zstd/{loader} --library-path /opt/zstd /opt/zstd/zstd"

    def bench_node(self):
        if os.geteuid() != 0:
            print("\nnodes: left out, as test hosts are started by root")
            return
        hosts = self.start_hosts()
        ours = {"ETCDVAULT_SSH_CONFIG": self.ssh_config, "ETCDVAULT_CONFIG": str(self.work / "etcdvault.toml")}
        run([self.ours, "discover", *hosts, "-o", self.work / "etcdvault.toml", "--cluster", "bench"],
            ETCDVAULT_SSH_CONFIG=self.ssh_config)
        tree = self.control_plane()
        for host in hosts:
            self.send(tree / "etc/kubernetes", host, "/etc/kubernetes")
        vault = self.work / "vault-n"
        save = [self.ours, "state", "save", "--vault", vault, "--cluster", "bench", "--allow-unencrypted", "--quiet"]
        roots = "etc/etcd etc/kubernetes etc/systemd/system/etcd.service etc/systemd/system/etcd.service.d"
        pipes = " & ".join(f"ssh -F {self.ssh_config} {host} -- tar c -C / {roots} | zstd -q -f -o {self.work}/{host}.tar.zst"
                           for host in hosts)
        saved, samples = self.record("state of three nodes without data, over SSH", [
            Contestant("etcdvault state save", [save], lambda: self.new_vault(vault), environment=ours),
            Contestant("three in parallel: ssh tar c | zstd", [["bash", "-c", f"{pipes} & wait"]]),
        ])
        self.row("state save of three nodes", spread([sample.wall * 1000 for sample in saved]), 2000, "ms")
        self.ratio("state save of three nodes", saved, samples["three in parallel: ssh tar c | zstd"], "(3 × ssh tar c | zstd)", None)

        # The data directory of a stopped member.
        first, data = hosts[0], "/var/lib/etcd/data"
        for host in hosts:
            self.on(host, "systemctl", "stop", "etcd")
        self.on(first, "rm", "-rf", data)
        self.send(self.kept, first, data, "etcd")
        self.data_size = size = int(self.on(first, "du", "-sb", data).split()[0])
        zstd = self.pack_there(first)
        packed = self.work / "data.tar.zst"
        pipe = f"ssh -F {self.ssh_config} {first} -- 'tar c -C {data} . | {zstd} -1' > {packed}"
        moved, samples = self.record(f"data directory of {size / 1e6:.0f} MB of a stopped member, over SSH", [
            Contestant("etcdvault state save --with-data", [[*save, "--with-data", "--node", first]],
                       lambda: self.new_vault(vault), lambda: self.check_data(vault), environment=ours),
            Contestant("ssh 'tar c | zstd -1' > file", [["bash", "-o", "pipefail", "-c", pipe]], lambda: self.empty(packed)),
        ])
        # 0.8 of the throughput is 1.25 of the time.
        self.ratio("data directory", moved, samples["ssh 'tar c | zstd -1' > file"], "ssh 'tar c | zstd -1'", 1.25)
        self.memory("state save --with-data, peak anonymous memory", moved, None)

    def check_data(self, vault):
        """What was measured is the data, whole."""
        stored = [path.stat().st_size for path in vault.rglob("data-*.tar.zst")]
        if len(stored) != 1 or stored[0] < self.data_size // 50:
            sys.exit(f"bench: the data was not stored: {stored}")

    def bench_start(self):
        times = []
        for _ in range(30):
            start = time.monotonic()
            subprocess.run([self.ours, "--version"], stdout=subprocess.DEVNULL, check=True)
            times.append((time.monotonic() - start) * 1000)
        self.row("etcdvault --version", spread(times), 10, "ms")
        self.single("size of the release binary", self.ours.stat().st_size / MEGABYTE, 30, "MB")

    def report(self):
        print(f"\n{'':<58} {'MEDIAN':>9} {'SPREAD':>19} {'BAR':>9}")
        for row in self.rows:
            value = lambda number, unit=row["unit"]: f"{number:.3f} ×" if unit == "×" else f"{number:.1f} {unit}"
            across = "" if row["low"] == row["high"] else f"{row['low']:.3f} to {row['high']:.3f}"
            bar = "" if row["bar"] is None else f"≤ {value(row['bar'])}"
            verdict = "" if row["bar"] is None else ("ok" if row["met"] else "MISSED")
            print(f"{row['what']:<58} {value(row['median']):>9} {across:>19} {bar:>12} {verdict}")
        model = next((line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                      if line.startswith("model name")), platform.machine())
        result = {
            "machine": {"cpu": model, "cores": os.cpu_count(), "kernel": platform.release()},
            "versions": {"etcdvault": run([self.ours, "--version"]).strip(), "etcd": self.etcd.name.removeprefix("etcd-"),
                         "zstd": run(["zstd", "--version"]).strip()},
            "database": self.size and {
                "bytes": self.size, "records": self.records, "zstd_3": self.compressed.stat().st_size},
            "runs": self.args.runs,
            "rows": self.rows,
            "samples": {work: {name: [vars(sample) for sample in samples] for name, samples in group.items()}
                        for work, group in self.groups.items()},
        }
        out = self.args.out or TARGET / "bench/results.json"
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=1) + "\n")
        print(f"\nevery sample: {out}")
        return all(row["met"] for row in self.rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--bytes", type=int, default=1_000_000_000, help="size of the database")
    parser.add_argument("--runs", type=int, default=5, help="measured runs of each contestant")
    parser.add_argument("--only", action="append", choices=PARTS, help="this part; several times for several")
    parser.add_argument("--etcdvault", type=Path, default=TARGET / "release/etcdvault", help="the program to measure")
    parser.add_argument("--out", type=Path, help="where the JSON goes")
    parser.add_argument("--strict", action="store_true", help="exit 1 when a bar is missed")
    args = parser.parse_args()
    bench = Bench(args)
    # Ctrl-C and SIGTERM go through `finally`, so that the servers end.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        bench.make_database()
        # Nodes have servers of their own.
        if set(args.only or PARTS) - {"node", "start"}:
            bench.start_server()
            bench.prepare()
        for part in args.only or PARTS:
            getattr(bench, f"bench_{part}")()
        met = bench.report()
    finally:
        bench.close()
    sys.exit(0 if met or not args.strict else 1)


if __name__ == "__main__":
    main()
