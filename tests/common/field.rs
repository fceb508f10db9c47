//! What the tests of plans on real hosts share: an operator's vault and configuration,
//! files as they lie on hosts, and runs of the program that are stopped in the midst.
#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use harness::cli::{Cli, Ran};
use harness::hosts::{Host, Hosts};
use rustix::process::{Pid, Signal};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStderr};

/// The longest that a run may take on a slow machine.
const BOUND: Duration = Duration::from_secs(300);

/// The plan that documents name.
const PLAN: &str = "01JD3A00000000000000000000";

/// The name of the cluster.
pub(crate) const CLUSTER: &str = "field";

/// An operator with a vault, its key and a configuration that `discover` wrote.
pub(crate) struct Field {
    root: tempfile::TempDir,
    pub(crate) cli: Cli,
}

impl Field {
    /// With the nodes of `hosts` that have a member.
    pub(crate) async fn of(hosts: &Hosts, nodes: &[&str]) -> Self {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        let made = Command::new("age-keygen").arg("-o").arg(path("identity.txt")).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let identity = std::fs::read_to_string(path("identity.txt")).unwrap();
        let public = identity.lines().find_map(|line| line.strip_prefix("# public key: ")).unwrap();
        let bare = Cli::new(env!("CARGO_BIN_EXE_etcdvault"))
            .env("ETCDVAULT_SSH_CONFIG", hosts.ssh_config())
            .env("ETCDCTL_DIAL_TIMEOUT", "20s")
            .env("ETCDCTL_COMMAND_TIMEOUT", "30s")
            .env("USER", "test")
            .env("ETCDVAULT_VAULT", path("vault"));
        bare.run(["init", "--recipient", public]).await.unwrap().expect(0);
        let config = path("etcdvault.toml");
        let discover = ["discover", "-o", config.to_str().unwrap(), "--cluster", CLUSTER];
        bare.run(discover.iter().chain(nodes)).await.unwrap().expect(0);
        let cli = bare
            .env("ETCDVAULT_CONFIG", config)
            .env("ETCDVAULT_IDENTITY_FILE", path("identity.txt"));
        Self { root, cli }
    }

    /// A file or folder of the operator's.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// Runs the program to its end.
    pub(crate) async fn run(&self, args: &[&str]) -> Ran {
        self.cli.run(args).await.unwrap()
    }

    /// Saves the state of all nodes and returns its id.
    pub(crate) async fn save(&self) -> String {
        let saved = self.run(&["state", "save", "--json"]).await.expect(0).json();
        saved["id"].as_str().unwrap().to_owned()
    }

    /// The plans in the journals of the nodes, newest first: id, and how each ended.
    pub(crate) async fn plans(&self) -> Vec<(String, Value)> {
        let listed = self.run(&["journal", "list", "--json"]).await.expect(0).json();
        let plan = |plan: &Value| (plan["id"].as_str().unwrap().to_owned(), plan["ending"].clone());
        listed.as_array().unwrap().iter().map(plan).collect()
    }

    /// Starts the program, to be stopped in its midst.
    pub(crate) fn start(&self, args: &[&str]) -> Running {
        let mut command = self.cli.command(args);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let said = BufReader::new(child.stderr.take().unwrap());
        Running { child, said, text: String::new() }
    }
}

/// The program as it runs.
pub(crate) struct Running {
    child: Child,
    said: BufReader<ChildStderr>,
    text: String,
}

impl Running {
    /// Waits until a line on stderr begins so.
    pub(crate) async fn until(&mut self, start: &str) {
        let reading = async {
            loop {
                let mut line = String::new();
                let count = self.said.read_line(&mut line).await.unwrap();
                self.text.push_str(&line);
                if line.starts_with(start) {
                    return;
                }
                assert!(count > 0, "it ended before {start:?}: {}", self.text);
            }
        };
        tokio::time::timeout(BOUND, reading).await.expect("in time");
    }

    /// Waits until one more step is done ("  3.2  n2  set files …  0.1 s"); false when the
    /// program ended.
    pub(crate) async fn until_step(&mut self) -> bool {
        let reading = async {
            loop {
                let mut line = String::new();
                let count = self.said.read_line(&mut line).await.unwrap();
                self.text.push_str(&line);
                let number = line.split_whitespace().next().and_then(|word| word.split_once('.'));
                let is_step = number.is_some_and(|(stage, step)| {
                    stage.parse::<u32>().is_ok() && step.parse::<u32>().is_ok()
                });
                if count == 0 || is_step && !line.contains("waits for") {
                    return count > 0;
                }
            }
        };
        tokio::time::timeout(BOUND, reading).await.expect("in time")
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().unwrap() as i32).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Waits for the end, and returns all that was said.
    pub(crate) async fn end(mut self) -> (ExitStatus, String) {
        let ending = async {
            self.said.read_to_string(&mut self.text).await.unwrap();
            let output = self.child.wait_with_output().await.unwrap();
            self.text.push_str(&String::from_utf8_lossy(&output.stdout));
            output.status
        };
        let status = tokio::time::timeout(BOUND, ending).await.expect("in time");
        (status, self.text)
    }
}

/// The program on a terminal of its own.
pub(crate) struct Terminal {
    child: Child,
    keys: tokio::process::ChildStdin,
    screen: tokio::process::ChildStdout,
    text: String,
}

impl Terminal {
    pub(crate) fn start(field: &Field, args: &[&str]) -> Self {
        let mut line = quoted(env!("CARGO_BIN_EXE_etcdvault"));
        for arg in args {
            line.push(' ');
            line.push_str(&quoted(arg));
        }
        // It runs what it is given on a new terminal, and passes on what it is told.
        let command = ["-q", "-e", "-f", "-c", line.as_str(), "/dev/null"];
        let with = field.cli.clone().env("SHELL", "/bin/sh").env("TERM", "xterm");
        let with = with.wrapped(["script"]);
        // The program itself is in the line.
        let mut script = tokio::process::Command::new("script");
        let prepared = with.command(std::iter::empty::<&str>());
        for (name, value) in prepared.as_std().get_envs() {
            if let Some(value) = value {
                script.env(name, value);
            }
        }
        let mut child = script
            .args(command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let (keys, screen) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self { child, keys, screen, text: String::new() }
    }

    pub(crate) async fn until(&mut self, wanted: &str) {
        let reading = async {
            while !self.text.contains(wanted) {
                let mut bytes = [0; 4096];
                let count = self.screen.read(&mut bytes).await.unwrap();
                self.text.push_str(&String::from_utf8_lossy(&bytes[..count]));
                assert!(count > 0, "it ended before {wanted:?}: {}", self.text);
            }
        };
        tokio::time::timeout(BOUND, reading).await.expect("in time");
    }

    pub(crate) async fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).await.unwrap();
        self.keys.flush().await.unwrap();
    }

    /// Waits for the end: the exit code and the screen.
    pub(crate) async fn end(mut self) -> (Option<i32>, String) {
        let ending = async {
            let mut rest = Vec::new();
            self.screen.read_to_end(&mut rest).await.unwrap();
            self.text.push_str(&String::from_utf8_lossy(&rest));
            self.child.wait().await.unwrap().code()
        };
        let code = tokio::time::timeout(BOUND, ending).await.expect("in time");
        (code, self.text)
    }
}

pub(crate) fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// The command that is printed behind `label`, as words for [`Field::run`].
pub(crate) fn printed(said: &str, label: &str) -> Vec<String> {
    let line = said.lines().find_map(|line| line.trim().strip_prefix(label));
    let line = line.unwrap_or_else(|| panic!("no {label:?} in {said}")).trim();
    let command = line.split("     (").next().unwrap();
    let mut words = command.split(' ').map(str::to_owned);
    assert_eq!(words.next().as_deref(), Some("etcdvault"), "{line}");
    words.collect()
}

/// Every file, directory and link below `roots` of a host: kind, mode, owner, target and
/// content, a line each.
pub(crate) async fn picture(host: &Host, roots: &[&str]) -> Vec<String> {
    let find = ["find"].iter().chain(roots);
    let list = find.clone().chain(&["-printf", "%p %y %m %u:%g %l\\n"]);
    let sums = find.chain(&["-type", "f", "-exec", "sha256sum", "{}", "+"]);
    let mut lines = Vec::new();
    for command in [list.collect::<Vec<_>>(), sums.collect()] {
        // A root that is missing is no line.
        let output = host.run(command).await.unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        lines.extend(text.lines().map(str::to_owned));
    }
    lines.sort();
    assert!(lines.len() > 2, "{lines:?}");
    lines
}

/// The same of several hosts.
pub(crate) async fn pictures(hosts: &[Host], roots: &[&str]) -> Vec<Vec<String>> {
    let mut all = Vec::new();
    for host in hosts {
        all.push(picture(host, roots).await);
    }
    all
}

/// Asserts that both are the same, and shows what is not.
#[track_caller]
pub(crate) fn same(what: &str, wanted: &[Vec<String>], found: &[Vec<String>]) {
    for (number, (wanted, found)) in wanted.iter().zip(found).enumerate() {
        let gone: Vec<_> = wanted.iter().filter(|line| !found.contains(line)).collect();
        let new: Vec<_> = found.iter().filter(|line| !wanted.contains(line)).collect();
        assert!(
            gone.is_empty() && new.is_empty(),
            "{what}: host {number}: missing {gone:#?}, and there is {new:#?}"
        );
    }
    assert_eq!(wanted.len(), found.len());
}

/// Runs lines of a script on this machine: with the program, and with this ssh_config.
pub(crate) async fn here(field: &Field, hosts: &Hosts, script: &str) {
    let bin = field.path("bin");
    std::fs::create_dir_all(&bin).unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_etcdvault"));
    let own = bin.join("etcdvault");
    if !own.exists() {
        std::os::unix::fs::symlink(program, own).unwrap();
        let config = quoted(hosts.ssh_config().to_str().unwrap());
        for name in ["scp", "ssh"] {
            let with = format!("#!/bin/sh\nexec /usr/bin/{name} -F {config} \"$@\"\n");
            std::fs::write(bin.join(name), with).unwrap();
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            std::fs::set_permissions(bin.join(name), mode).unwrap();
        }
    }
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let cli = field.cli.clone().env("PATH", path);
    let prepared = cli.command(std::iter::empty::<&str>());
    let mut shell = tokio::process::Command::new("bash");
    for (name, value) in prepared.as_std().get_envs() {
        if let Some(value) = value {
            shell.env(name, value);
        }
    }
    let running = shell.args(["-euc", script]).current_dir(field.root.path()).output();
    let output = tokio::time::timeout(BOUND, running).await.expect("in time").unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}\n{said}");
}

/// Types a plan that is printed as stock commands where it says, and returns the text.
pub(crate) async fn typed(field: &Field, hosts: &Hosts, args: &[&str]) -> String {
    let text = field.run(args).await.expect(0).text();
    let mut blocks: Vec<(&str, String)> = Vec::new();
    for line in text.lines() {
        match (line.strip_prefix("#    on "), blocks.last_mut()) {
            (Some(place), _) => blocks.push((place.trim_end_matches(':'), String::new())),
            (None, Some((_, script))) => script.extend([line, "\n"]),
            (None, None) => {}
        }
    }
    assert!(blocks.len() > 5, "{text}");
    for (place, script) in blocks {
        match hosts.all().iter().find(|host| host.name() == place) {
            Some(host) => {
                let words = ["bash", "-euc", script.as_str()];
                host.check_within(words, 2 * BOUND).await.unwrap();
            }
            None if place == "the operator's machine" => here(field, hosts, &script).await,
            None => panic!("{place:?} in {text}"),
        }
    }
    let check = hosts.host(0).run_with(["bash", "-n"], text.as_bytes()).await.unwrap();
    assert!(check.status.success() && check.stderr.is_empty(), "{check:?}");
    text
}

/// Types the marked commands of a document, line by line, with this vault and these nodes,
/// and the id of the newest plan where one is named. No plan is left unfinished.
pub(crate) async fn told(field: &Field, hosts: &Hosts, document: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(document);
    let text = std::fs::read_to_string(path).unwrap();
    let marked = text.split("<!-- typed on real hosts -->\n").skip(1);
    let blocks: Vec<&str> = marked
        .map(|rest| rest.split("```sh\n").nth(1).unwrap().split("```").next().unwrap())
        .collect();
    assert!(!blocks.is_empty(), "{document}");
    let mut lines: Vec<String> = Vec::new();
    for line in blocks.concat().lines().map(str::trim).filter(|line| !line.is_empty()) {
        let vault = field.path("vault");
        let line = line.replace("/srv/etcd-vault", vault.to_str().unwrap());
        let identity = field.path("identity.txt");
        let line = line.replace("/root/identity.txt", identity.to_str().unwrap());
        let line = match line.contains(PLAN) {
            true => {
                let newest = field.plans().await.first().map(|plan| plan.0.clone());
                line.replace(PLAN, newest.as_deref().unwrap_or("-"))
            }
            false => line,
        };
        lines.push(line);
        let is_setting = lines.last().unwrap().starts_with("export ");
        if is_setting {
            continue;
        }
        // Settings hold for all that follows.
        let settings = lines.iter().filter(|line| line.starts_with("export "));
        let script: Vec<String> = settings.chain(lines.last()).cloned().collect();
        here(field, hosts, &script.join("\n")).await;
    }
    let plans = field.plans().await;
    assert!(plans.iter().all(|(_, ending)| !ending.is_null()), "{plans:?}");
}
