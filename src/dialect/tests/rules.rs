//! Rules of systemd, Kubernetes and etcd, each by a small example.

use super::super::*;

fn environment(text: &str) -> Vec<(String, String)> {
    let file = EnvFile::parse(text).expect("a file");
    let taken = file.assignments().iter().filter(|found| found.is_taken());
    taken.map(|found| (found.name.clone(), found.value.clone())).collect()
}

/// systemd.exec(5) on `EnvironmentFile=`, and `src/basic/env-file.c`.
#[test]
fn environment_files() {
    for (text, expected) in [
        ("A=1", &[("A", "1")][..]),
        ("A=1\r\nB=2\r\n", &[("A", "1"), ("B", "2")]),
        ("A=\"x y\"", &[("A", "x y")]),
        ("A='x \"y\" \\'", &[("A", "x \"y\" \\")]),
        ("A=\"x \\\"y\\\" \\n \\\\ \\$\"", &[("A", "x \"y\" \\n \\ $")]),
        ("A=x y  \nB=2", &[("A", "x y"), ("B", "2")]),
        ("A = 1", &[("A", "1")]),
        ("A=x # no comment", &[("A", "x # no comment")]),
        ("  # comment\n;comment\nA=1", &[("A", "1")]),
        ("A=x\\\ny", &[("A", "xy")]),
        ("A=\"x\\\ny\"", &[("A", "xy")]),
        ("A=\"x\ny\"\nB=2", &[("A", "x\ny"), ("B", "2")]),
        ("A=\"x\"'y'z", &[("A", "xyz")]),
        ("A=x\\ \\ y", &[("A", "x  y")]),
        ("A=$HOME ${B}", &[("A", "$HOME ${B}")]),
        ("A=\nB=", &[("A", ""), ("B", "")]),
        ("export A=1\n2A=1\nA.b=1\nB=2", &[("B", "2")]),
        ("no assignment\nA=1", &[("A", "1")]),
        ("A=x=y", &[("A", "x=y")]),
        ("# joined \\\nA=1", &[("A", "1")]),
    ] {
        let expected: Vec<_> = expected.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect();
        assert_eq!(environment(text), expected, "{text:?}");
    }
    let file = EnvFile::parse("A=1\nB=2\nA=3").expect("a file");
    assert_eq!(file.value("A"), Some("3"));
    assert_eq!(file.remove("A").as_deref(), Ok("B=2"));
    assert_eq!(file.set("A", "4").as_deref(), Ok("A=1\nB=2\nA=4"));
    assert_eq!(file.set("C", "a b").as_deref(), Ok("A=1\nB=2\nA=3\nC=\"a b\""));
    let crlf = EnvFile::parse("A=1\r\nB='2'\r\n").expect("a file");
    assert_eq!(crlf.set("B", "it's").as_deref(), Ok("A=1\r\nB=\"it's\"\r\n"));
    assert_eq!(crlf.set("C", "3").as_deref(), Ok("A=1\r\nB='2'\r\nC=3\r\n"));
    assert_eq!(crlf.remove("A").as_deref(), Ok("B='2'\r\n"));
    let open = EnvFile::parse("A=\"1").expect("a file").add("B", "2").expect_err("open");
    assert!(open.to_string().contains("ends inside a quote"), "{open}");
    let joined = EnvFile::parse("# c \\\nA=1\n").expect("a file");
    assert!(
        joined.set("A", "2").expect_err("two readings").to_string().contains("line 1 is a comment")
    );
}

fn command(unit: &str, environment: &str) -> Vec<String> {
    let file = UnitFile::parse("u", unit).expect("a unit");
    let unit = Unit::merge(file, Vec::new(), Specifiers::of("etcd@a-b.service", Some("h.example")));
    let invocation = unit.invocation(&[("e".into(), environment.into())]).expect("a command");
    let mut words = vec![invocation.program().to_owned()];
    words.extend(invocation.arguments().iter().map(|word| word.value.clone()));
    words
}

/// systemd.service(5), "Command lines".
#[test]
fn command_lines() {
    let environment = "ONE='one'\nTWO=\"'two two' too\"\nEMPTY=\nARGS=\"-a \\\"b c\\\" d\"";
    for (line, expected) in [
        (
            "/bin/etcd $ONE $TWO ${TWO}",
            &["/bin/etcd", "one", "two two", "too", "'two two' too"][..],
        ),
        ("/bin/etcd $EMPTY x ${EMPTY} y", &["/bin/etcd", "x", "", "y"]),
        ("/bin/etcd $NONE --a=${NONE}b", &["/bin/etcd", "--a=b"]),
        ("/bin/etcd $ARGS", &["/bin/etcd", "-a", "b c", "d"]),
        ("/bin/etcd --x=$ONE $$ONE $${ONE}", &["/bin/etcd", "--x=$ONE", "$ONE", "${ONE}"]),
        ("/bin/etcd 'a b' \"c d\" e\\x20f g\\tg", &["/bin/etcd", "a b", "c d", "e f", "g\tg"]),
        ("-/bin/etcd a \\\n# comment\n  b\\\n  c \\\n\n", &["/bin/etcd", "a", "b", "c"]),
        ("@/bin/etcd other a", &["/bin/etcd", "a"]),
        (":/bin/etcd $ONE ${ONE}", &["/bin/etcd", "$ONE", "${ONE}"]),
        (
            "/bin/etcd %p %i %I %H %l 100%% %m",
            &["/bin/etcd", "etcd", "a-b", "a/b", "h.example", "h", "100%", "%m"],
        ),
        (
            "/bin/sh -c 'exec /bin/etcd --name \"$ONE\" $TWO'",
            &["/bin/etcd", "--name", "one", "'two", "two'", "too"],
        ),
    ] {
        let unit = format!("[Service]\nExecStart={line}\n");
        assert_eq!(command(&unit, environment), expected, "{line:?}");
    }
    for script in ["etcd; true", "etcd | tee x", "etcd $(x)", "etcd > x", "cd / && etcd"] {
        let text = format!("[Service]\nExecStart=/bin/sh -c '{script}'\n");
        let unit = Unit::merge(
            UnitFile::parse("u", &text).expect("a unit"),
            vec![],
            Specifiers::default(),
        );
        let error = unit.invocation(&[]).expect_err(script).to_string();
        assert!(error.starts_with("line 2: the command runs through a shell, with "), "{error}");
    }
}

#[test]
fn drop_ins() {
    let file = |name: &str, text: &str| UnitFile::parse(name, text).expect("a unit");
    let unit = |drop_ins: Vec<UnitFile>| {
        let base = "[Service]\nEnvironment=A=1 \"B=2 3\"\nEnvironmentFile=/e1\nExecStart=/bin/etcd --a\nUser=etcd\n";
        Unit::merge(file("u", base), drop_ins, Specifiers::of("etcd.service", None))
    };
    let two = unit(vec![file("10.conf", "[Service]\nExecStart=/bin/etcd --b\n")]);
    assert_eq!(
        two.invocation(&[]).expect_err("two commands").to_string(),
        "line 2: 2 ExecStart= are in force"
    );
    let merged = unit(vec![
        file("10.conf", "[Service]\nExecStart=\nExecStart=/bin/etcd --b\nEnvironment=A=9 C=4\n"),
        file(
            "20.conf",
            "[Service]\nEnvironmentFile=\nEnvironmentFile=-/e2\nUser=root\n[Unit]\nUser=x\n",
        ),
    ]);
    let invocation = merged.invocation(&[("/e2".into(), "C=5".into())]).expect("a command");
    assert_eq!(invocation.arguments()[0].value, "--b");
    assert_eq!(invocation.arguments()[0].origin.file.as_deref(), Some("10.conf"));
    let variables: Vec<_> =
        invocation.variables().iter().map(|v| (v.name.as_str(), v.value.as_str())).collect();
    assert_eq!(variables, [("A", "9"), ("B", "2 3"), ("C", "5")]);
    assert_eq!(merged.value("User").as_deref(), Some("root"));
    assert_eq!(
        merged.environment_files(),
        [EnvironmentFile { path: "/e2".into(), optional: true }]
    );
    let order = order_drop_ins([
        "/usr/lib/systemd/system/etcd.service.d/50-b.conf",
        "/etc/systemd/system/etcd.service.d/90-z.conf",
        "/etc/systemd/system/etcd.service.d/50-b.conf",
        "/run/systemd/system/etcd.service.d/10-a.conf",
        "/etc/systemd/system/etcd.service.d/notes.txt",
    ]);
    assert_eq!(
        order,
        [
            "/run/systemd/system/etcd.service.d/10-a.conf",
            "/etc/systemd/system/etcd.service.d/50-b.conf",
            "/etc/systemd/system/etcd.service.d/90-z.conf",
        ]
    );
    let text = "[Service]\nEnvironment=A=1 \"B=2 3\"\nExecStart=/bin/etcd\n";
    let set =
        |name: &str, value: &str| file("u", text).set_environment(name, value).expect("an edit");
    assert_eq!(set("A", "x"), text.replace("A=1", "A=x"));
    assert_eq!(set("B", "y z"), text.replace("B=2 3", "B=y z"));
    assert_eq!(set("C", "5%"), text.replace("ExecStart", "Environment=C=5%%\nExecStart"));
}

#[test]
fn pods() {
    let text = "kind: Pod\nspec:\n  containers:\n  - name: m\n    image: etcd:3\n    command: [\"etcd\", '--name=$(NAME)', --data-dir, /d]\n    args:\n    - --wal-dir=/w # fast\n    - --quota-backend-bytes\n    - \"5\"\n    env:\n    - {name: NAME, value: m1}\n    - {name: ETCD_LOGGER, value: zap}\n";
    let manifest = Manifest::parse("m", text).expect("a pod");
    let container = manifest.container_of("etcd").expect("a container");
    let settings = EtcdSettings::of(&manifest.invocation(&container).expect("a command"), None);
    let all: Vec<_> = settings.iter().map(|s| (s.name.as_str(), s.value.as_str())).collect();
    assert_eq!(
        all,
        [
            ("data-dir", "/d"),
            ("logger", "zap"),
            ("name", "m1"),
            ("quota-backend-bytes", "5"),
            ("wal-dir", "/w"),
        ]
    );
    let set = |flag: &str, value: &str| manifest.set_flag(&container, flag, value);
    assert_eq!(set("data-dir", "/e"), Ok(text.replace("/d]", "/e]")));
    assert_eq!(set("wal-dir", "/x"), Ok(text.replace("=/w", "=/x")));
    assert_eq!(set("quota-backend-bytes", "6"), Ok(text.replace("\"5\"", "\"6\"")));
    assert!(set("name", "x").expect_err("a variable").to_string().contains("from a variable"));
    assert_eq!(
        set("initial-cluster", "a=http://h:1,b=http://h:2"),
        Ok(text.replace(
            "    - \"5\"\n",
            "    - \"5\"\n    - \"--initial-cluster=a=http://h:1,b=http://h:2\"\n"
        ))
    );
    assert_eq!(
        manifest.remove_flag(&container, "wal-dir"),
        Ok(text.replace("    - --wal-dir=/w # fast\n", ""))
    );
    let shell = text.replace("[\"etcd\"", "[sh, -c, \"etcd\"");
    let manifest = Manifest::parse("m", &shell).expect("a pod");
    assert!(manifest.set_flag(&container, "wal-dir", "/y").is_err());
    assert!(Manifest::parse("m", "kind: Service\n").is_err());
}

#[test]
fn hosts_are_replaced_whole() {
    let replaced = |list, from, to| replace_host(list, from, to);
    let list = "a=http://10.0.0.1:2380,b=http://10.0.0.10:2380";
    assert_eq!(
        replaced(list, "10.0.0.1", "10.0.0.2").as_deref(),
        Some("a=http://10.0.0.2:2380,b=http://10.0.0.10:2380")
    );
    assert_eq!(replaced(list, "10.0.0", "x"), None);
    assert_eq!(
        replaced("https://[::1]:2379", "0:0::1", "fd00::2").as_deref(),
        Some("https://[fd00::2]:2379")
    );
    assert_eq!(
        replaced("http://Db1.example.org:1/x", "db1.example.org", "db2").as_deref(),
        Some("http://db2:1/x")
    );
    assert_eq!(replaced("10.0.0.1:2379, 10.0.0.1", "10.0.0.1", "h").as_deref(), Some("h:2379, h"));
    assert_eq!(host("unix:///run/x.sock"), None);
}

#[test]
fn what_etcd_takes() {
    let settings = |argv: &[&str], environ: &[&str], config: Option<&str>| {
        let config = config.map(|text| ConfigFile::parse("/c", text).expect("a file"));
        EtcdSettings::of(&Invocation::running(argv, environ), config.as_ref())
    };
    let both =
        settings(&["etcd", "--name=f"], &["ETCD_NAME=e", "ETCD_WAL_DIR=/w", "ETCD_CORS="], None);
    assert_eq!((both.name(), both.wal_dir(), both.value("cors")), ("f", Some("/w"), None));
    assert!(matches!(both.findings(), [Finding::Conflict { .. }]));
    let file = settings(
        &["etcd", "--name=f", "--raft-read-timeout", "6s"],
        &["ETCD_CONFIG_FILE=/c", "ETCD_WAL_DIR=/w", "ETCD_RAFT_WRITE_TIMEOUT=6s"],
        Some("Name: y\nbogus: 1\nname: z\n"),
    );
    assert_eq!((file.config_file(), file.name(), file.wal_dir()), (Some("/c"), "z", None));
    assert_eq!(file.value("raft-read-timeout"), Some("6s"));
    let found: Vec<_> = file.findings().iter().map(ToString::to_string).collect();
    assert_eq!(
        found,
        [
            "name (the running process (flag)) has no effect: etcd takes /c alone",
            "raft-write-timeout (the running process (environment)) has no effect: etcd takes /c alone",
            "wal-dir (the running process (environment)) has no effect: etcd takes /c alone",
            "bogus (/c:2) is no setting of etcd",
            "name (/c:1) has no effect: it is set again behind",
        ]
    );
    let forced = settings(&["etcd", "--force-new-cluster", "--name", "m"], &[], None);
    assert!(forced.is_forced_new() && forced.name() == "m");
    assert_eq!(forced.initial_cluster().to_string(), "m=http://localhost:2380");
    let found = settings(&["etcd", "--discovery-srv", "example.org"], &[], None);
    assert!(found.is_discovered() && found.initial_cluster().names().is_empty());
    let stray = settings(&["etcd", "--auto-tls", "false", "--name=m"], &[], None);
    assert!(stray.client_tls().auto_tls && stray.value("name").is_none());
    assert_eq!(stray.findings()[0].to_string(), "\"false\" stands where etcd takes flags only");
    let secret = settings(&["etcd", "--discovery-password=hunter2"], &[], None);
    assert!(!format!("{secret:?}").contains("hunter2"));
}

#[test]
fn versions() {
    assert!(KNOWN.windows(2).all(|pair| pair[0].name < pair[1].name), "sorted for the search");
    let gone = |series| settings_gone_in(series).iter().map(|gone| gone.name).collect::<Vec<_>>();
    assert!(gone(Series::V3_4).is_empty());
    assert_eq!(
        gone(Series::V3_5),
        ["debug", "experimental-backend-bbolt-freelist-type", "log-package-levels"]
    );
    assert!(gone(Series::V3_6).contains(&"enable-v2"));
    assert!(gone(Series::V3_7).contains(&"discovery"));
    assert!(!settings_gone_in(Series::V3_7).iter().any(|gone| {
        gone.name.starts_with("experimental-")
            && gone.last == Series::V3_6
            && gone.instead.is_none()
    }));
    assert_eq!(Series::of("v3.5.16-0"), Some(Series::V3_5));
    assert_eq!(Series::of("3.60"), None);
    assert!(settings_deprecated_in(Series::V3_5).contains(&("enable-v2", "3.6")));
}
