//! `etcdvault.toml`: the example of the guide is one, commands take their settings from
//! it, flags and variables go before, and mistakes stop a command before it does
//! anything.

#[path = "common/program.rs"]
mod common;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use etcdvault::config::read::parse;
use harness::cli::Cli;
use harness::etcd::Cluster;

use common::{listed, new_vault, program, says};

fn file(folder: &Path, text: &str) -> PathBuf {
    let path = folder.join("etcdvault.toml");
    std::fs::write(&path, text).unwrap();
    path
}

fn with(config: &Path) -> Cli {
    program().env("ETCDVAULT_CONFIG", config)
}

#[test]
fn the_guides_example_is_one_and_every_option_is_explained() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/guide/configuration.md");
    let guide = std::fs::read_to_string(path).unwrap();
    let blocks: Vec<_> = guide.split("```toml\n").skip(1).collect();
    assert!(!blocks.is_empty());
    for block in &blocks {
        let text = block.split("```").next().unwrap();
        let parsed = parse(text).unwrap_or_else(|problems| panic!("{problems:#?}\n{text}"));
        assert!(!parsed.config.clusters.is_empty() || !parsed.config.vaults.is_empty());
    }
    let keys = etcdvault::config::read::keys();
    assert!(keys.len() > 40, "{keys:?}");
    for (kind, key) in keys {
        assert!(guide.contains(&format!("`{key}`")), "{key} of {kind} is not in the guide");
    }
}

#[tokio::test]
async fn one_file_is_all_that_a_backup_needs() {
    let root = tempfile::tempdir().unwrap();
    let vault = new_vault(root.path()).await;
    let cluster = Cluster::builder("3.6").start().await.unwrap();
    let endpoint = &cluster.endpoints()[0];
    let text = format!(
        "[cluster.prod]\nendpoints = [{endpoint:?}]\n\n[vault.main]\nlocation = \"vault\"\n"
    );
    let config = file(root.path(), &text);
    let cli = with(&config);
    let report = cli.run(["backup", "--json"]).await.unwrap().expect(0).json();
    assert_eq!(report["cluster"], "prod", "{report}");
    assert_eq!(listed(&cli).await, 1);
    assert_eq!(listed(&program().vault(&vault)).await, 1, "in the vault beside the file");
    cli.run(["verify", "latest"]).await.unwrap().expect(0);
    cli.run(["status"]).await.unwrap().expect(0);

    // The same by flag, from elsewhere.
    let flag = ["list", "--json", "--config", config.to_str().unwrap()];
    let list = program().run(flag).await.unwrap().expect(0).json();
    assert_eq!(list["backups"].as_array().unwrap().len(), 1);

    // Another's endpoints do not store under this cluster's name, were it not known.
    let other = Cluster::builder("3.6").start().await.unwrap();
    let ran = cli.run(["backup", "--json", "--endpoints", &other.endpoints()[0]]).await.unwrap();
    let report = ran.expect(0).json();
    assert!(report["cluster"].as_str().unwrap().starts_with("etcd-"), "{report}");
    // Two clusters are in the vault now: latest is of the one in the file.
    let shown = cli.run(["show", "latest", "--json"]).await.unwrap().expect(0).json();
    assert_eq!(shown["cluster"], "prod", "{shown}");
    let id = report["id"].as_str().unwrap();
    cli.run(["show", id]).await.unwrap().expect(0);
    assert_eq!(listed(&cli).await, 2, "a list is of all unless a cluster is named");
}

#[tokio::test]
async fn nothing_is_guessed_among_several() {
    let root = tempfile::tempdir().unwrap();
    new_vault(root.path()).await;
    let cluster = Cluster::builder("3.6").start().await.unwrap();
    let endpoint = &cluster.endpoints()[0];
    let text = format!(
        "[cluster.prod]\nendpoints = [{endpoint:?}]\nvault = \"main\"\n\
         [cluster.test]\nendpoints = [\"http://127.0.0.1:1\"]\nvault = \"other\"\n\
         [vault.main]\nlocation = \"vault\"\n[vault.other]\nlocation = \"other\"\n"
    );
    let cli = with(&file(root.path(), &text));
    let ran = cli.run(["backup"]).await.unwrap().expect(2);
    says(&ran, &["has 2 clusters", "--cluster", "prod, test"]);
    let ran = cli.run(["backup", "--cluster", "pord"]).await.unwrap().expect(2);
    says(&ran, &["no [cluster.pord]", "did you mean `prod`?"]);
    says(&cli.run(["list"]).await.unwrap().expect(2), &["has 2 clusters"]);
    cli.run(["backup", "--cluster", "prod"]).await.unwrap().expect(0);
    assert_eq!(listed(&cli.clone().env("ETCDVAULT_CLUSTER", "prod")).await, 1);
    let list = cli.run(["list", "--vault", "main", "--json"]).await.unwrap().expect(0).json();
    assert_eq!(list["backups"].as_array().unwrap().len(), 1);
    cli.run(["list", "--vault", "other"]).await.unwrap().expect(10);
    cli.run(["status", "--cluster", "test"]).await.unwrap().expect(30);
    // Flags that say everything need no choice.
    cli.run(["status", "--endpoints", endpoint]).await.unwrap().expect(0);
}

#[tokio::test]
async fn show_says_who_said_so_and_hides_secrets() {
    let root = tempfile::tempdir().unwrap();
    let text = "[cluster.prod]\nendpoints = [\"https://a:2379\"]\ncacert = \"ca.crt\"\n\
                user = \"root\"\npassword-command = \"echo geheim1\"\n\
                [vault.main]\nlocation = \"s3://bucket/p\"\ns3-region = \"eu\"\n\
                identity-file = \"/root/identity.txt\"\n";
    let config = file(root.path(), text);
    let cli = with(&config)
        .env("ETCDCTL_DIAL_TIMEOUT", "7s")
        // Empty counts as unset.
        .env("ETCDCTL_COMMAND_TIMEOUT", "")
        .env("ETCDVAULT_S3_REGION", "us")
        .env("ETCDVAULT_PASSPHRASE", "geheim2");
    let ran = cli.run(["config", "show", "--json", "--cert", "/c.pem"]).await.unwrap().expect(0);
    let shown = ran.json();
    let find = |part: &str, name: &str| {
        let list = shown[part].as_array().unwrap();
        let found = list.iter().find(|setting| setting["name"] == name);
        let text = |key: &str| found.unwrap_or_else(|| panic!("{name}: {shown}"))[key].clone();
        (text("value").as_str().unwrap().to_owned(), text("origin").as_str().unwrap().to_owned())
    };
    let line = |number| format!("{}:{number}", config.display());
    let ca = root.path().join("ca.crt").display().to_string();
    assert_eq!(find("connection", "endpoints"), ("https://a:2379".into(), line(2)));
    assert_eq!(find("connection", "cacert"), (ca, line(3)));
    assert_eq!(find("connection", "cert"), ("/c.pem".into(), "flag --cert".into()));
    assert_eq!(find("connection", "password"), ("(printed by a command)".into(), line(5)));
    let timeout = ("7s".into(), "environment ETCDCTL_DIAL_TIMEOUT".into());
    assert_eq!(find("connection", "dial-timeout"), timeout);
    assert_eq!(find("connection", "command-timeout"), ("10s".into(), "default".into()));
    assert_eq!(find("vault", "location"), ("s3://bucket/p".into(), line(7)));
    let region = ("us".into(), "environment ETCDVAULT_S3_REGION".into());
    assert_eq!(find("vault", "s3-region"), region);
    let origin = "environment ETCDVAULT_PASSPHRASE".to_owned();
    assert_eq!(find("vault", "passphrase").1, origin, "the variable beats the file's identity");
    let people = cli.run(["config", "show"]).await.unwrap().expect(0);
    for said in [ran.text(), people.text()] {
        assert!(!said.contains("geheim"), "{said}");
    }
    assert!(people.text().contains("environment ETCDVAULT_S3_REGION"), "{people}");
}

#[tokio::test]
async fn check_says_what_it_looked_at() {
    let root = tempfile::tempdir().unwrap();
    new_vault(root.path()).await;
    let secret = root.path().join("password");
    std::fs::write(&secret, "geheim\n").unwrap();
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::write(root.path().join("ca.crt"), "no certificate\n").unwrap();
    let start = "[cluster.prod]\nendpoints = [\"https://a:2379\"]\nuser = \"root\"\n\
                 password-file = \"password\"\n";
    let vault = "[vault.main]\nlocation = \"vault\"\n";
    let config = file(root.path(), &format!("{start}{vault}"));
    let ran = with(&config).run(["config", "check"]).await.unwrap().expect(0);
    let text = ran.text();
    for part in ["cluster.prod password-file (line 4)", "is a vault", "1 cluster, 0 nodes", "0 bad"]
    {
        assert!(text.contains(part), "{part}: {ran}");
    }
    assert!(!text.contains("geheim"));

    let config = file(
        root.path(),
        &format!(
            "{start}cacert = \"ca.crt\"\nkubeconfig = \"/nowhere/k\"\n{vault}spool-dir = \"password\"\n"
        ),
    );
    let report = program().args_json(&config).await;
    let bad: Vec<_> = report["checked"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|checked| checked["verdict"] == "bad")
        .map(|checked| checked["what"].as_str().unwrap())
        .collect();
    assert_eq!(bad, ["cluster.prod cacert", "cluster.prod kubeconfig", "vault.main spool-dir"]);

    let config = file(root.path(), "\n[cluster.prod]\nendpoint = [\"a\"]\n");
    for args in [vec!["config", "check"], vec!["backup"], vec!["list"]] {
        let ran = with(&config).run(&args).await.unwrap().expect(2);
        says(
            &ran,
            &[
                "unknown key `endpoint` in [cluster.prod] at line 3, column 1: did you mean `endpoints`?",
            ],
        );
    }
    let missing = root.path().join("none.toml");
    says(&with(&missing).run(["list"]).await.unwrap().expect(2), &["cannot read", "none.toml"]);
    says(&program().run(["config", "check"]).await.unwrap().expect(2), &["/etc/etcdvault"]);
}

/// A failing check's report.
trait Checked {
    async fn args_json(&self, config: &Path) -> serde_json::Value;
}

impl Checked for Cli {
    async fn args_json(&self, config: &Path) -> serde_json::Value {
        let args = ["config", "check", config.to_str().unwrap(), "--json"];
        self.run(args).await.unwrap().expect(2).json()
    }
}

#[tokio::test]
async fn the_usual_places_and_who_may_write_there() {
    let root = tempfile::tempdir().unwrap();
    let vault = new_vault(root.path()).await;
    let folder = root.path().join("etcdvault");
    std::fs::create_dir(&folder).unwrap();
    let config =
        file(&folder, &format!("[vault.main]\nlocation = {:?}\n", vault.to_str().unwrap()));
    let cli = program().env("XDG_CONFIG_HOME", root.path());
    assert_eq!(listed(&cli).await, 0);
    std::fs::set_permissions(&config, std::fs::Permissions::from_mode(0o666)).unwrap();
    says(&cli.run(["list"]).await.unwrap().expect(2), &["everybody may write it", "chmod"]);
    // A command that needs no configuration is not stopped by a bad one.
    cli.run(["completions", "bash"]).await.unwrap().expect(0);
}

#[tokio::test]
async fn keys_are_taken_from_where_the_file_says() {
    let root = tempfile::tempdir().unwrap();
    let identity = root.path().join("identity.txt");
    let made = std::process::Command::new("age-keygen").arg("-o").arg(&identity).output().unwrap();
    assert!(made.status.success());
    let text = std::fs::read_to_string(&identity).unwrap();
    let public = text.lines().find_map(|line| line.strip_prefix("# public key: ")).unwrap();
    let start = format!("[vault.main]\nlocation = \"crypt\"\nrecipients = [{public:?}]\n");
    let config = file(root.path(), &start);
    let ran = with(&config).run(["init"]).await.unwrap().expect(0);
    assert!(ran.text().contains(public), "{ran}");
    let cluster = Cluster::builder("3.6").start().await.unwrap();
    with(&config).cluster(&cluster).run(["backup", "--cluster", "a"]).await.unwrap().expect(0);
    let verify = ["verify", "latest"];
    let sources = [
        format!("identity-file = {:?}\n", "identity.txt"),
        format!("identity-command = \"cat {}\"\n", identity.display()),
        "identity-env = \"MY_IDENTITY\"\n".to_owned(),
        "identity-credential = \"identity.txt\"\n".to_owned(),
    ];
    for source in &sources {
        let config = file(root.path(), &format!("{start}{source}"));
        let cli = with(&config)
            .env("MY_IDENTITY", text.trim_end())
            .env("CREDENTIALS_DIRECTORY", root.path());
        let ran = cli.run(verify).await.unwrap().expect(0);
        assert!(!ran.text().contains("AGE-SECRET-KEY") && !ran.stderr.contains("AGE-SECRET-KEY"));
    }
    let config = file(root.path(), &format!("{start}{}", sources[2]));
    says(&with(&config).run(verify).await.unwrap().expect(12), &["MY_IDENTITY"]);
}
