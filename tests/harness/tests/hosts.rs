//! The hosts themselves: three are up, reached as an operator reaches them, and
//! suffer what a test does to them.
#![expect(clippy::print_stderr, reason = "how long it took is said, not asserted")]

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use harness::hosts::{Hosts, Image, JUMP, Login};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().to_owned()
}

/// Whether a TCP connection to the port comes about.
fn connects(address: std::net::Ipv4Addr, port: u16) -> bool {
    let bound = Duration::from_secs(2);
    TcpStream::connect_timeout(&SocketAddr::from((address, port)), bound).is_ok()
}

#[tokio::test]
async fn three_hosts_live_through_what_a_test_does_to_them() {
    let start = Instant::now();
    let mut hosts =
        Hosts::builder().hosts(2, Image::Debian12).hosts(1, Image::Debian13).start().await.unwrap();
    eprintln!("three hosts up in {:?}", start.elapsed());
    for (host, release) in hosts.all().iter().zip(["12", "12", "13"]) {
        let output = hosts.ssh(host.name(), ["cat /etc/debian_version; hostname"]).await.unwrap();
        let said = text(&output.stdout);
        assert!(said.starts_with(release) && said.ends_with(host.name()), "{said} {output:?}");
        let state = host.run(["systemctl", "is-system-running", "--wait"]).await.unwrap();
        assert_eq!(text(&state.stdout), "running");
    }
    // Hosts reach each other by name.
    let n2 = hosts.host(1).address();
    let found = hosts.host(0).check(["getent", "hosts", "n2"]).await.unwrap();
    assert!(found.starts_with(&n2.to_string()), "{found}");

    // A port blocked for one is open for others.
    let reach = ["timeout", "3", "bash", "-c", "exec 3<>/dev/tcp/n2/22"];
    assert!(hosts.host(0).run(reach).await.unwrap().status.success());
    hosts.host(1).block(hosts.host(0).address(), 22).await.unwrap();
    assert!(!hosts.host(0).run(reach).await.unwrap().status.success());
    assert!(hosts.host(2).run(reach).await.unwrap().status.success());
    hosts.host(1).unblock(hosts.host(0).address(), 22).await.unwrap();
    assert!(hosts.host(0).run(reach).await.unwrap().status.success());

    // Without its link a host is still run from within.
    hosts.host(1).link_down().unwrap();
    assert!(!connects(n2, 22));
    assert_eq!(hosts.host(1).check(["hostname"]).await.unwrap().trim(), "n2");
    hosts.host(1).link_up().unwrap();
    assert!(connects(n2, 22));

    // Disks: full, read-only, and back.
    let host = hosts.host(0);
    host.write_as("/srv/data/file", b"kept", "etcd", 0o640).await.unwrap();
    let owner = ["stat", "--format=%U %a", "/srv/data/file"];
    assert_eq!(host.check(owner).await.unwrap().trim(), "etcd 640");
    host.small_disk("/srv/data", 1 << 20).await.unwrap();
    assert_eq!(host.read("/srv/data/file").await.unwrap(), b"kept");
    assert_eq!(host.check(owner).await.unwrap().trim(), "etcd 640");
    host.fill_disk("/srv/data").await.unwrap();
    let refused = host.write("/srv/data/more", &[1; 8192]).await.unwrap_err();
    assert!(format!("{refused:?}").contains("No space left"), "{refused:?}");
    assert!(host.fill_disk("/srv").await.is_err(), "a disk that is not small");
    host.unmount("/srv/data").await.unwrap();
    host.read_only("/srv/data").await.unwrap();
    let refused = host.write("/srv/data/more", b"x").await.unwrap_err();
    assert!(format!("{refused:?}").contains("Read-only"), "{refused:?}");
    host.unmount("/srv/data").await.unwrap();
    host.write("/srv/data/more", b"x").await.unwrap();

    // Power: what was written is there again, under a new boot id.
    let boot = "/proc/sys/kernel/random/boot_id";
    let before = hosts.host(0).check(["journalctl", "--list-boots"]).await.unwrap();
    hosts.host_mut(0).power_off_hard().await.unwrap();
    assert!(!hosts.host(0).is_on() && !connects(hosts.host(0).address(), 22));
    assert_eq!(hosts.host(0).read("/srv/data/more").await.unwrap(), b"x");
    hosts.host(0).write("/srv/data/more", b"written while off").await.unwrap();
    hosts.host_mut(0).power_on().await.unwrap();
    assert_eq!(hosts.host(0).read("/srv/data/more").await.unwrap(), b"written while off");
    let after = hosts.host(0).check(["journalctl", "--list-boots"]).await.unwrap();
    assert!(after.lines().count() > before.lines().count(), "{before}\n{after}");
    let old = hosts.host(2).read(boot).await.unwrap();
    hosts.host_mut(2).reboot().await.unwrap();
    assert_ne!(hosts.host(2).read(boot).await.unwrap(), old, "the boot id");
    hosts.host_mut(2).power_off().await.unwrap();
    assert!(!hosts.host(2).is_on());
    assert!(connects(n2, 22), "the others stayed");
}

#[tokio::test]
async fn hosts_behind_a_jump_host_are_reached_through_it_alone_and_sudo_works() {
    let hosts = Hosts::builder()
        .hosts(2, Image::Debian13)
        .login(Login::Operator)
        .jump()
        .start()
        .await
        .unwrap();
    assert_eq!(hosts.all().last().unwrap().name(), JUMP);
    for host in hosts.all() {
        let output = hosts.ssh(host.name(), ["id -un; sudo -n id -un; hostname"]).await.unwrap();
        let said = format!("operator\nroot\n{}", host.name());
        assert_eq!(text(&output.stdout), said, "{}", text(&output.stderr));
    }
    assert!(!connects(hosts.host(0).address(), 22), "reached without the jump host");
    assert!(connects(hosts.host(2).address(), 22));
    // Strict: a host whose key is another is refused.
    let known = std::fs::read_to_string(hosts.known_hosts()).unwrap();
    let (n1, n2) = (hosts.host(0).address().to_string(), hosts.host(1).address().to_string());
    let swapped = known.replace(&n1, "other").replace(&n2, &n1).replace("other", &n2);
    std::fs::write(hosts.known_hosts(), swapped).unwrap();
    let refused = hosts.ssh("n1", ["true"]).await.unwrap();
    assert_eq!(refused.status.code(), Some(255));
    assert!(text(&refused.stderr).contains("REMOTE HOST IDENTIFICATION HAS CHANGED"));
}

/// The processes in control groups of the set whose directory is `hosts/<number>`.
fn processes(directory: &Path) -> Vec<PathBuf> {
    let number = directory.file_name().unwrap().to_string_lossy().into_owned();
    let of = |process: &PathBuf| {
        let groups = std::fs::read_to_string(process.join("cgroup")).unwrap_or_default();
        groups.contains(&format!("/ev{number}-"))
    };
    let all = std::fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    all.filter(of).collect()
}

#[tokio::test]
async fn a_killed_run_leaves_no_process_and_the_next_run_removes_the_rest() {
    let mut run = Command::new(env!("CARGO_BIN_EXE_test-hosts"))
        .args(["debian12", "1"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(run.stdout.take().unwrap()).read_line(&mut line).unwrap();
    // ssh -F …/hosts/<number>/ssh/config n1
    let config = PathBuf::from(line.split(' ').nth(2).unwrap_or_else(|| panic!("{line}")));
    let directory = config.parent().unwrap().parent().unwrap().to_owned();
    let left = processes(&directory);
    assert!(left.len() > 3, "{line} {left:?}");
    // Other tests may have the same number next: the marker is this run's alone.
    let marker = directory.join("marker");
    std::fs::write(&marker, "").unwrap();
    run.kill().unwrap();
    run.wait().unwrap();
    let start = Instant::now();
    while left.iter().any(|process| process.exists()) {
        assert!(start.elapsed() < Duration::from_secs(60), "processes outlive the run: {left:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    // Whoever starts next sweeps, and gives its own back at its end.
    let next = Hosts::builder().start().await.unwrap();
    assert!(!marker.exists(), "{} is left", directory.display());
    let marker = next.directory().join("marker");
    std::fs::write(&marker, "").unwrap();
    drop(next);
    assert!(!marker.exists(), "{} is left", marker.display());
}
