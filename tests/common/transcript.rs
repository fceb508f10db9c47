//! Plays the `console` blocks of a document against real servers and holds what the
//! programs print against what the document says.
//!
//! A document that wants to be played says so in a comment:
//!
//! | comment | meaning |
//! |---|---|
//! | `<!-- transcript: members=3 tls series=3.6 fill=300 streams -->` | once, first: which cluster runs; `streams` marks stderr with `! ` |
//! | `<!-- act: kill m3 -->`, `kill all`, `adopt DIR` | acts on members; `adopt` starts them on the directories of their names below DIR |
//! | `<!-- run: COMMAND -->` | runs a command that the reader does not see |
//!
//! In a block, lines after `$ ` are commands (continued by `\`), the others are output;
//! `[exit code N]` ends the output of a command that did not return 0. Paths below
//! `/srv`, `/root`, `/var/lib` and `/etc/kubernetes` and the addresses `10.0.0.11` to
//! `10.0.0.13` stand for a temporary directory and the ports of the servers.
//!
//! What differs from run to run (ids, times, sizes, ports, raft indexes) is masked on both
//! sides before the comparison. `UPDATE_TRANSCRIPTS=1` writes the new output into
//! the documents that differ.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::LazyLock;
use std::time::Duration;

use harness::etcd::{Cluster, Security};
use harness::fill::Fill;
use regex::{Captures, Regex};

/// No command of a document takes longer.
const BOUND: Duration = Duration::from_secs(180);

/// Plays the document at `path`, relative to the repository.
pub(crate) async fn play(path: &str) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let file = root.join(path);
    let text = std::fs::read_to_string(&file).unwrap();
    let mut stage = Stage::set(path, &text).await;
    let (played, differences) = stage.play(&text).await;
    if differences.is_empty() {
        return;
    }
    if std::env::var_os("UPDATE_TRANSCRIPTS").is_some() {
        std::fs::write(&file, played).unwrap();
        return;
    }
    panic!(
        "{path} says something else than the programs (UPDATE_TRANSCRIPTS=1 writes it anew):\n{}",
        differences.join("\n")
    );
}

/// Documents with a transcript, relative to the repository.
pub(crate) fn documents(directories: &[&str]) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = vec!["README.md".to_owned()];
    for directory in directories {
        for entry in std::fs::read_dir(root.join(directory)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            found.push(format!("{directory}/{name}"));
        }
    }
    found.retain(|path| {
        let text = std::fs::read_to_string(root.join(path)).unwrap_or_default();
        directive(&text, "transcript").is_some()
    });
    found.sort();
    found
}

fn directive<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| comment(line, name))
}

fn comment<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let inner = line.trim().strip_prefix("<!-- ")?.strip_suffix(" -->")?;
    Some(inner.strip_prefix(name)?.strip_prefix(':')?.trim())
}

/// A temporary root directory, a cluster and an environment.
struct Stage {
    document: String,
    root: tempfile::TempDir,
    cluster: Cluster,
    variables: BTreeMap<String, String>,
    streams: bool,
}

impl Stage {
    async fn set(document: &str, text: &str) -> Self {
        let settings = directive(text, "transcript").expect("a transcript comment");
        let value = |name: &str| {
            settings.split_whitespace().find_map(|s| s.strip_prefix(name)?.strip_prefix('='))
        };
        let word = |name: &str| settings.split_whitespace().any(|s| s == name);
        let members = value("members").map_or(1, |n| n.parse().unwrap());
        let security = if word("tls") { Security::ClientCertificates } else { Security::Plain };
        let builder = Cluster::builder(value("series").unwrap_or("3.6"));
        let cluster = builder.members(members).security(security).start().await.unwrap();
        versions_settled(&cluster).await;
        if let Some(objects) = value("fill") {
            let client = cluster.client().await.unwrap();
            Fill::new(1, objects.parse().unwrap()).run(&client).await.unwrap();
        }
        let root = tempfile::tempdir().unwrap();
        let pki = root.path().join("etc/kubernetes/pki/etcd");
        for directory in ["srv", "root", "var/lib", "etc/kubernetes/pki/etcd"] {
            std::fs::create_dir_all(root.path().join(directory)).unwrap();
        }
        if let Some(tls) = cluster.tls() {
            std::fs::copy(tls.ca(), pki.join("ca.crt")).unwrap();
            std::fs::copy(tls.other.certificate(), pki.join("other-ca.crt")).unwrap();
            for (name, identity) in [("healthcheck-client", &tls.root), ("expired", &tls.expired)] {
                std::fs::copy(&identity.cert, pki.join(format!("{name}.crt"))).unwrap();
                std::fs::copy(&identity.key, pki.join(format!("{name}.key"))).unwrap();
            }
        }
        let program = Path::new(env!("CARGO_BIN_EXE_etcdvault")).parent().unwrap();
        let path = std::env::join_paths(
            [program.to_owned(), cluster.etcd().server().parent().unwrap().to_owned()]
                .into_iter()
                .chain(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())),
        )
        .unwrap();
        let shown = |path: PathBuf| path.display().to_string();
        let variables = [
            ("PATH", shown(path.into())),
            ("HOME", shown(root.path().join("root"))),
            ("TMPDIR", shown(root.path().join("srv"))),
            ("LC_ALL", "C.UTF-8".to_owned()),
            ("TZ", "Europe/Berlin".to_owned()),
            ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
        ];
        let mut variables: BTreeMap<_, _> =
            variables.map(|(name, value)| (name.to_owned(), value)).into();
        if members == 1 {
            // It stands for the default, 127.0.0.1:2379.
            variables.insert("ETCDCTL_ENDPOINTS".to_owned(), cluster.endpoints()[0].clone());
        }
        Self { document: document.to_owned(), variables, streams: word("streams"), root, cluster }
    }

    /// What stands for what: in the document, and on this machine.
    fn addresses(&self) -> Vec<(String, String)> {
        let mut addresses = Vec::new();
        let one = self.cluster.members().len() == 1;
        for (i, member) in self.cluster.members().iter().enumerate() {
            let host = if one { "127.0.0.1".to_owned() } else { format!("10.0.0.1{}", i + 1) };
            for (port, real) in [(2379, member.client_port()), (2380, member.peer_port())] {
                addresses.push((format!("{host}:{port}"), format!("127.0.0.1:{real}")));
            }
        }
        addresses
    }

    /// The document's words in this machine's.
    fn real(&self, text: &str) -> String {
        static PATHS: LazyLock<Regex> = LazyLock::new(|| {
            Regex::new(r#"(^|[\s='"(:])(/(?:srv|root|var/lib|etc/kubernetes)\b)"#).unwrap()
        });
        let root = self.root.path().display().to_string();
        let mut text = PATHS.replace_all(text, format!("${{1}}{root}$2")).into_owned();
        // In one pass, and whole: a real port may begin like one of the document's.
        static ADDRESSES: LazyLock<Regex> =
            LazyLock::new(|| Regex::new(r"\b\d+\.0\.0\.\d+:\d+\b").unwrap());
        let addresses: BTreeMap<_, _> = self.addresses().into_iter().collect();
        text = ADDRESSES
            .replace_all(&text, |found: &Captures<'_>| {
                addresses.get(&found[0]).map_or_else(|| found[0].to_owned(), Clone::clone)
            })
            .into_owned();
        text
    }

    /// This machine's words in the document's; columns stay aligned.
    fn shown(&self, text: &str) -> String {
        let mut text = text.replace(&self.root.path().display().to_string(), "");
        for (shown, real) in self.addresses() {
            let pad = " ".repeat(real.len().saturating_sub(shown.len()));
            for after in ["  ", " |"] {
                text = text.replace(&format!("{real}{after}"), &format!("{shown}{pad}{after}"));
            }
            text = text.replace(&real, &shown);
        }
        text
    }

    /// The document with the output of now, and each place where that is not what the
    /// document says.
    async fn play(&mut self, text: &str) -> (String, Vec<String>) {
        let mut played = String::new();
        let mut differences = Vec::new();
        let mut lines = text.lines().enumerate().peekable();
        let mut inside = false;
        while let Some((number, line)) = lines.next() {
            played.push_str(line);
            played.push('\n');
            if line.starts_with("```") {
                inside = line == "```console";
                continue;
            }
            if !inside {
                if let Some(act) = comment(line, "act") {
                    self.act(act).await;
                } else if let Some(command) = comment(line, "run") {
                    let said = self.run(command).await;
                    assert!(!said.contains("[exit code"), "{command}: {said}");
                }
                continue;
            }
            let mut command = line
                .strip_prefix("$ ")
                .unwrap_or_else(|| panic!("{}:{}: no command", self.document, number + 1))
                .to_owned();
            while command.ends_with('\\') {
                let Some((_, more)) = lines.next() else { break };
                played.push_str(more);
                played.push('\n');
                command = format!("{command}\n{more}");
            }
            let mut before = String::new();
            while let Some((_, line)) =
                lines.next_if(|(_, line)| !line.starts_with("$ ") && !line.starts_with("```"))
            {
                before.push_str(line);
                before.push('\n');
            }
            let now = self.run(&command).await;
            if masked(&now) != masked(&before) {
                differences.push(format!(
                    "{}:{}: $ {command}\n--- in the document\n{}--- now\n{}",
                    self.document,
                    number + 1,
                    masked(&before),
                    masked(&now)
                ));
            }
            played.push_str(&now);
        }
        (played, differences)
    }

    async fn act(&mut self, act: &str) {
        let (verb, object) = act.split_once(' ').unwrap_or((act, ""));
        if verb == "adopt" {
            let from = PathBuf::from(self.real(object));
            self.cluster.kill().unwrap();
            for member in self.cluster.members_mut() {
                member.delete_data().unwrap();
                let from = from.join(member.name());
                std::fs::rename(&from, member.data_dir())
                    .unwrap_or_else(|error| panic!("{}: {error}", from.display()));
            }
            return self.cluster.start().await.unwrap();
        }
        let mut gone = Vec::new();
        for member in self.cluster.members_mut() {
            if object != "all" && object != member.name() {
                continue;
            }
            assert_eq!(verb, "kill", "no such act: {act}");
            if member.is_running().unwrap() {
                let status = member.client().await.unwrap().status().await.unwrap();
                gone.push(status.header().unwrap().member_id());
                member.kill().unwrap();
            }
        }
        self.settle(&gone).await;
    }

    /// Waits until the members that run have chosen a leader that is not `gone`, or
    /// know that they cannot.
    async fn settle(&mut self, gone: &[u64]) {
        let all = self.cluster.members().len();
        let mut running = Vec::new();
        for member in self.cluster.members_mut() {
            if member.is_running().unwrap() {
                running.push(member.client().await.unwrap());
            }
        }
        let quorum = running.len() > all / 2;
        for client in &mut running {
            for tries in 0.. {
                let leader = client.status().await.unwrap().leader();
                if quorum == (leader != 0) && !gone.contains(&leader) {
                    break;
                }
                assert!(tries < 450, "the members did not settle within 90 s");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }

    /// Runs a command and returns what it printed, as the document would show it.
    async fn run(&mut self, command: &str) -> String {
        let real = self.real(command);
        if let Some(setting) = real.strip_prefix("export ") {
            for setting in setting.replace("\\\n", " ").split_whitespace() {
                let (name, value) = setting.split_once('=').expect("NAME=VALUE");
                self.variables.insert(name.to_owned(), value.to_owned());
            }
            return String::new();
        }
        if let Some(names) = real.strip_prefix("unset ") {
            names.split_whitespace().for_each(|name| drop(self.variables.remove(name)));
            return String::new();
        }
        let merge = if self.streams { "" } else { "exec 2>&1\n" };
        let child = tokio::process::Command::new("bash")
            .arg("-c")
            .arg(format!("set -o pipefail\n{merge}{real}"))
            .env_clear()
            .envs(&self.variables)
            .current_dir(self.root.path().join("root"))
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(BOUND, child)
            .await
            .unwrap_or_else(|_| panic!("{command} did not end"))
            .unwrap();
        let mut text = self.shown(&String::from_utf8_lossy(&output.stdout));
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        for line in self.shown(&String::from_utf8_lossy(&output.stderr)).lines() {
            text.push_str(&format!("! {line}\n"));
        }
        match output.status.code() {
            Some(0) => {}
            Some(code) => text.push_str(&format!("[exit code {code}]\n")),
            None => panic!("{command} was ended by a signal"),
        }
        text
    }
}

/// Waits until every member has recorded the version of its store, which servers from
/// 3.6 on do some seconds after their start.
async fn versions_settled(cluster: &Cluster) {
    if matches!(cluster.etcd().series(), "3.4" | "3.5") {
        return;
    }
    // For a moment they may have that of the version before.
    let wanted = format!("\"storageVersion\":\"{}.", cluster.etcd().series());
    for _ in 0..450 {
        let status = cluster.etcdctl(["endpoint", "status", "-w", "json"]).await.unwrap();
        if status.matches(&wanted).count() == cluster.members().len() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    panic!("the members did not record their version within 90 s");
}

/// The text without what differs from run to run.
fn masked(text: &str) -> String {
    static RULES: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
        [
            (r"\b\d{8}T\d{6}(\.\d+)?Z", "TIME"),
            (r"\b\d{4}-\d\d-\d\d[ T]\d\d:\d\d(:\d\d)?(\.\d+)?Z?", "TIME"),
            (r"/20\d\d/\d\d/", "/YEAR/MONTH/"),
            // An alert of TLS 1.3 may come when the connection already stands.
            (r"\b(connect|read its status): (connection error: )?", "ASK: "),
            (r"\b01[0-9A-HJKMNP-TV-Z]{6,24}\b", "ID"),
            (r"\b01[0-9a-hjkmnp-tv-z]{24}\b", "ID"),
            (r"\bage1[a-z0-9]{58}\b", "RECIPIENT"),
            (r"\b[0-9a-f]{64}\b", "SHA256"),
            (r"\b[0-9a-f]{14,16}\b", "HEX"),
            (r"\b[0-9a-f]{8}\b( \(\d+\))?", "HASH"),
            // etcdutl and etcdctl draw tables around numbers without leading zeros.
            (r"\| +[0-9a-f]{4,10} +\|", "| HASH |"),
            (r"-{3,}", "---"),
            (r"\b\d+(\.\d+)? [kMG]?B\b", "SIZE"),
            (r"\b(\d+ min )?\d+(\.\d+)? (s|ms|min|h)\b", "DURATION"),
            (r"the database has \d+", "the database has BYTES"),
            (r"\b\d+ %", "SHARE"),
            (r"127\.0\.0\.1:\d+", "ADDRESS"),
            (r"10\.0\.0\.\d\d:\d+", "ADDRESS"),
            (r"\bm[123]\b", "MEMBER"),
            (r"\((leader|follower)\)", "(ROLE)"),
            (r"\bindex [\d,]+, term \d+", "INDEX"),
            (r"\b(buckets?)  .*", "$1"),
            (r"/tmp/\S+", "TEMPORARY"),
        ]
        .map(|(pattern, mask)| (Regex::new(pattern).unwrap(), mask))
        .into()
    });
    static MEMBER_ROW: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"(?m)^(https?://.*)$").unwrap());
    static COUNTS: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"\b(\d[\d,]*|yes|no)(\s|$)").unwrap());
    static SPACES: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"  +").unwrap());
    let mut text = text.to_owned();
    for (pattern, mask) in &*RULES {
        text = pattern.replace_all(&text, *mask).into_owned();
    }
    text = MEMBER_ROW
        .replace_all(&text, |row: &Captures<'_>| COUNTS.replace_all(&row[1], "N$2").into_owned())
        .into_owned();
    SPACES.replace_all(&text, "  ").into_owned()
}

#[test]
fn masks_hide_what_differs_and_nothing_else() {
    let same = |a: &str, b: &str| assert_eq!(masked(a), masked(b));
    same(
        "01KAJ8Q2W9B7Y1T5E3R6P0X4ZC  prod  revision 1,234  1.2 MB → 180 kB  1.9 s",
        "01KAJ8Q2W9B7Y1T5E3R6P0X4ZD  prod  revision 1,234  98 kB → 9 kB  12.0 s",
    );
    same(
        "http://127.0.0.1:1234  m1  3.6.16  yes  4  61",
        "http://127.0.0.1:999  m2  3.6.16  no  5  62",
    );
    let differ = |a: &str, b: &str| assert_ne!(masked(a), masked(b));
    differ("revision 1,234", "revision 1,235");
    differ("proven on 3 of 3 members", "proven on 2 of 3 members");
    differ("3 of 3 members answer", "2 of 3 members answer");
    differ("[exit code 3]", "");
}
