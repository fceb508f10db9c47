//! The dialects against the programs that read them for real: every flag of
//! the table against four series of etcd, what counts when flag, variable and
//! file say different things, and systemd's own readers of environment files
//! and units.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use etcdvault::dialect::{
    ConfigFile, EnvFile, EtcdSettings, Finding, Invocation, KNOWN, Kind, Series, Specifiers, Unit,
    UnitFile,
};
use harness::etcd::{Etcd, SERIES};

/// No start of a program takes longer on a slow machine.
const BOUND: Duration = Duration::from_secs(120);

/// Runs a program that ends by itself; after the bound it is killed.
fn run(command: &mut Command) -> Output {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("starting {command:?}: {error}"));
    let start = Instant::now();
    loop {
        if child.try_wait().expect("its status").is_some() {
            return child.wait_with_output().expect("its output");
        }
        if start.elapsed() > BOUND {
            let _ = child.kill();
            panic!("{command:?} does not end");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// A flag that is not defined ends etcd before it prints its version.
#[tokio::test]
async fn every_flag_of_the_table_in_every_series() {
    for (series, named) in Series::ALL.into_iter().zip(SERIES) {
        assert_eq!(series.to_string(), named);
        let etcd = Etcd::version(named).await.expect("etcd");
        let defined = |flag: &str| {
            // No value of a switch, nor a number: either is refused by name.
            let output = run(Command::new(etcd.server())
                .env_clear()
                .arg(format!("--{flag}=\u{1}"))
                .arg("--version"));
            let said = text(&output);
            (!said.contains("provided but not defined"), said.contains("invalid boolean"))
        };
        for known in KNOWN {
            let (found, switch) = defined(known.name);
            let expected = known.first <= series && series <= known.last;
            assert_eq!(found, expected, "--{} in {series}", known.name);
            if found && known.name != "test.coverprofile" {
                assert_eq!(switch, known.kind == Kind::Switch, "--{} in {series}", known.name);
            }
        }
        assert!(!defined("no-such-flag").0);
        // Nothing that --help names is missing in the table.
        let help = text(&run(Command::new(etcd.server()).env_clear().arg("--help")));
        let mut named = 0;
        for line in help.lines() {
            let Some(flag) = line.trim_start().trim_start_matches('\'').strip_prefix("--") else {
                continue;
            };
            let end = flag.find(|c: char| !c.is_ascii_alphanumeric() && c != '-');
            let flag = &flag[..end.unwrap_or(flag.len())];
            if !flag.is_empty() {
                named += 1;
                let row = etcdvault::dialect::known(flag);
                let here = row.is_some_and(|row| row.first <= series && series <= row.last);
                assert!(here || !defined(flag).0, "--{flag} of {series}");
            }
        }
        assert!(named > 70, "only {named} flags in the help of {series}");
    }
}

/// Starts etcd on ports that cannot be listened on, so that it logs what it
/// takes and ends.
fn start(server: &Path, directory: &Path, args: &[&str], variables: &[(&str, &str)]) -> String {
    let output = run(Command::new(server)
        .env_clear()
        .current_dir(directory)
        .args(args)
        .envs(variables.iter().copied()));
    text(&output)
}

/// What counts: flag and variable together stop etcd, a file counts alone, an
/// empty variable is none, of a repeated key the last one counts, keys may be
/// in any case. The member's name shows which one was taken.
#[tokio::test]
async fn what_etcd_takes_of_flag_variable_and_file() {
    let directory = tempfile::tempdir().expect("a directory");
    let config = directory.path().join("etcd.yml");
    // 192.0.2.0/24 is nobody's: etcd ends when it listens there.
    let common = "listen-peer-urls: http://192.0.2.1:2380\ninitial-cluster: from-file=http://localhost:2380\n";
    // A repeated key, an unknown one, and another in two cases.
    let text = format!(
        "name: first\nbogus-key: 1\nname: from-file\nNAME: other\nInitial-Cluster-Token: t\n{common}"
    );
    std::fs::write(&config, &text).expect("a file");
    let config_path = config.to_str().expect("a path");
    let listen = "--listen-peer-urls=http://192.0.2.1:2380";
    for series in SERIES {
        let etcd = Etcd::version(series).await.expect("etcd");
        let server = etcd.server();
        let case = |args: &[&str], variables: &[(&str, &str)]| -> (String, EtcdSettings) {
            let said = start(&server, directory.path(), args, variables);
            let argv: Vec<&str> = std::iter::once("etcd").chain(args.iter().copied()).collect();
            let environ: Vec<String> =
                variables.iter().map(|(name, value)| format!("{name}={value}")).collect();
            let invocation = Invocation::running(&argv, &environ);
            let path = EtcdSettings::config_file_of(&invocation);
            let file = path.map(|path| ConfigFile::parse(&path, &text).expect("a file"));
            (said, EtcdSettings::of(&invocation, file.as_ref()))
        };
        // The member's directory is named in the log after the name taken.
        let took = |said: &str, name: &str| said.contains(&format!("{name}.etcd"));

        let (said, settings) = case(&[listen, "--name=from-flag"], &[]);
        assert!(took(&said, "from-flag"), "{series}: {said}");
        assert_eq!(settings.name(), "from-flag");

        let (said, settings) = case(&[listen], &[("ETCD_NAME", "from-env")]);
        assert!(took(&said, "from-env"), "{series}: {said}");
        assert_eq!(settings.name(), "from-env");

        let (said, settings) = case(&[listen, "--name", "one", "-name", "two"], &[]);
        assert!(took(&said, "two"), "{series}: {said}");
        assert_eq!(settings.name(), "two");

        let (said, settings) = case(&[listen], &[("ETCD_NAME", "")]);
        assert!(took(&said, "default"), "{series}: {said}");
        assert_eq!(settings.name(), "default");

        for value in ["from-env", "from-flag", ""] {
            let (said, settings) = case(&[listen, "--name=from-flag"], &[("ETCD_NAME", value)]);
            assert!(said.contains("conflicting environment variable"), "{series}: {said}");
            assert!(matches!(settings.findings(), [Finding::Conflict { .. }]), "{settings:?}");
        }

        for (args, variables) in [
            (
                vec!["--config-file", config_path, "--name=from-flag"],
                vec![("ETCD_NAME", "from-env")],
            ),
            (vec!["--name=from-flag"], vec![("ETCD_CONFIG_FILE", config_path)]),
        ] {
            let (said, settings) = case(&args, &variables);
            assert!(took(&said, "from-file"), "{series}: {said}");
            assert_eq!(settings.name(), "from-file");
            assert_eq!(settings.config_file(), Some(config_path));
            let ignored = |finding: &&Finding| matches!(finding, Finding::Ignored { .. });
            let expected = args.iter().filter(|arg| arg.starts_with("--name")).count()
                + variables.iter().filter(|(name, _)| *name == "ETCD_NAME").count();
            assert_eq!(settings.findings().iter().filter(ignored).count(), expected);
        }
    }
}

const ENVIRONMENT_GENERATOR: &str =
    "/usr/lib/systemd/user-environment-generators/30-systemd-environment-d-generator";

/// systemd reads `environment.d` with the reader of `EnvironmentFile=`, and
/// its generator prints what it read. It expands variables besides, so the
/// texts here have no dollar.
#[test]
fn systemd_reads_environment_files_the_same() {
    let texts = [
        "A=1\nB=2\nA=3\n",
        "A=\"x y\" \nB='z  z'\nC=x y  \n",
        "A=1\r\nB=\"2\"\r\n",
        "  A  =  1  \n\t;comment\n # comment\nB=x # none\n",
        "A=x\\\ny\nB=\"x\\\ny\"\nC=a\\ \\ b\nD=\\q\n",
        "A=\"q\\q \\\\ \\` \\\"\"'s\\s'u\n",
        "A='two two' too\nB=\"a\" \"b\" c\n",
        "no assignment\n2X=1\nX.Y=1\nexport Z=1\nA=x=y\n",
        "A=\"no end",
        "A=x\\",
        "A=1\nB",
        "A=\"ä€\"\n",
    ];
    for text in texts {
        let home = tempfile::tempdir().expect("a directory");
        let folder = home.path().join("environment.d");
        std::fs::create_dir(&folder).expect("a directory");
        std::fs::write(folder.join("10.conf"), text).expect("a file");
        let output = run(Command::new(ENVIRONMENT_GENERATOR)
            .env_clear()
            .env("HOME", home.path())
            .env("XDG_CONFIG_HOME", home.path()));
        assert!(output.status.success(), "{output:?}");
        // A value with special characters comes in $'…' or quotes.
        let printed = String::from_utf8(output.stdout).expect("UTF-8");
        let systemd: BTreeMap<String, String> = printed
            .lines()
            .filter_map(|line| line.split_once('='))
            .filter(|(name, _)| name.len() == 1 && "ABCDZ".contains(name))
            .map(|(name, value)| (name.to_owned(), unquoted(value)))
            .collect();
        let file = EnvFile::parse(text).expect("a file");
        let ours: BTreeMap<String, String> = file
            .assignments()
            .iter()
            .filter(|found| found.is_taken())
            .map(|found| (found.name.clone(), found.value.clone()))
            .collect();
        assert_eq!(ours, systemd, "{text:?} as {printed:?}");
    }
}

/// A value as the generator prints it: plain, or quoted for a shell.
fn unquoted(value: &str) -> String {
    let inner = value.strip_prefix("$'").and_then(|rest| rest.strip_suffix('\''));
    let inner = inner.or_else(|| value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')));
    let Some(inner) = inner else { return value.to_owned() };
    let mut text = String::new();
    let mut characters = inner.chars();
    while let Some(c) = characters.next() {
        match c {
            '\\' => match characters.next() {
                Some('n') if value.starts_with('$') => text.push('\n'),
                Some('t') if value.starts_with('$') => text.push('\t'),
                Some(c) => text.push(c),
                None => text.push('\\'),
            },
            c => text.push(c),
        }
    }
    text
}

/// `systemd-analyze verify` dumps the unit it loaded when it logs debugging:
/// its command line, environment and files, drop-ins merged.
#[test]
fn systemd_reads_units_the_same() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/dialect");
    let api = std::fs::read_to_string(fixtures.join("apiserver/kube-apiserver.service"));
    let api = api.expect("a fixture").replace("/usr/local/bin/kube-apiserver", "/bin/true");
    type Case<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)]);
    let cases: [Case<'_>; 5] = [
        ("evt-a.service", &api, &[]),
        (
            "evt-b.service",
            "[Service]\nEnvironment=A=1 \"B=2 3\" 'C=%p %%'\nExecStart=/bin/true a\\\n b \\\n# comment\n  'c d' \"e\\tf\" \\x41 %N\n",
            &[],
        ),
        (
            "evt-c.service",
            "[Service]\nEnvironment=A=1\nEnvironmentFile=/x\nExecStart=/bin/true one\n",
            &[
                ("20-b.conf", "[Service]\nExecStart=\nExecStart=/bin/true two\nEnvironment=A=2\n"),
                (
                    "10-a.conf",
                    "[Service]\nExecStart=\nExecStart=/bin/true three\nEnvironmentFile=\nEnvironmentFile=-/y\n",
                ),
            ],
        ),
        ("evt-d.service", "[Service]\nExecStart=/bin/true \\\n\n--lost\n", &[]),
        ("evt@x-y.service", "[Service]\nExecStart=/bin/true %i %p %n %j\n", &[]),
    ];
    for (name, text, drop_ins) in cases {
        let home = tempfile::tempdir().expect("a directory");
        let path = home.path().join(name);
        std::fs::write(&path, text).expect("a file");
        let folder = home.path().join(format!("{name}.d"));
        std::fs::create_dir(&folder).expect("a directory");
        for (file, text) in drop_ins {
            std::fs::write(folder.join(file), text).expect("a file");
        }
        let output = run(Command::new("systemd-analyze")
            .env("SYSTEMD_LOG_LEVEL", "debug")
            .env("SYSTEMD_UNIT_PATH", format!("{}:", home.path().display()))
            .args(["verify", "--man=no", "--recursive-errors=no"])
            .arg(&path));
        let said = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        let of = |label: &str| -> Vec<String> {
            let lines = said.lines().filter_map(|line| line.trim().strip_prefix(label));
            lines.map(|value| value.trim().to_owned()).collect()
        };
        let unit_file = UnitFile::parse(name, text).expect("a unit");
        let mut sorted: Vec<_> = drop_ins.iter().collect();
        sorted.sort();
        let drop_ins =
            sorted.iter().map(|(name, text)| UnitFile::parse(name, text).expect("a unit"));
        let unit = Unit::merge(unit_file, drop_ins.collect(), Specifiers::of(name, None));
        let invocation = unit.invocation(&[]).expect("a command");
        let mut words = vec![invocation.program().to_owned()];
        words.extend(invocation.arguments().iter().map(|word| word.value.clone()));
        let commands = of("Command Line:");
        assert_eq!(commands.len(), 1, "{said}");
        assert_eq!(shell_words(&commands[0]), words, "{name}: {}", commands[0]);
        let environment: Vec<String> =
            invocation.variables().iter().map(|v| format!("{}={}", v.name, v.value)).collect();
        let mut found = of("Environment:");
        found.sort();
        assert_eq!(found, environment, "{name}");
        let files: Vec<String> = unit
            .environment_files()
            .iter()
            .map(|file| format!("{}{}", if file.optional { "-" } else { "" }, file.path))
            .collect();
        assert_eq!(of("EnvironmentFile:"), files, "{name}");
    }
}

/// Words as systemd prints them: quoted where it must.
fn shell_words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut characters = line.chars().peekable();
    while let Some(c) = characters.next() {
        match (c, quote) {
            ('$', None) if characters.peek() == Some(&'\'') => {}
            ('\\', _) => {
                let c = match characters.next() {
                    Some('t') => '\t',
                    Some('n') => '\n',
                    Some(c) => c,
                    None => '\\',
                };
                word.get_or_insert_default().push(c);
            }
            (c, Some(open)) if c == open => quote = None,
            ('"' | '\'', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (' ', None) => words.extend(word.take()),
            (c, _) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}
