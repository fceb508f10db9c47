//! Encrypted vaults from end to end: nodes that hold public keys alone, identities and
//! passphrases from every place they may come from, and wrong or missing keys, which
//! are told (exit code 12) before any work is done and never shown.

#[path = "common/program.rs"]
mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use harness::cli::Cli;
use harness::etcd::{Cluster, Security};
use harness::tls::Validity;

use common::{files, listed, program, says};

/// A key pair made by age's own tool: the file and the public key.
fn key_pair(folder: &Path, name: &str) -> (PathBuf, String) {
    let path = folder.join(name);
    let made = Command::new("age-keygen").arg("-o").arg(&path).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let text = std::fs::read_to_string(&path).unwrap();
    let public = text.lines().find_map(|line| line.strip_prefix("# public key: ")).unwrap();
    (path, public.to_owned())
}

/// Restores the newest backup into a directory of its own; the number of its keys.
async fn restored(cli: &Cli, folder: &Path, more: &[&str]) -> i64 {
    let number = std::fs::read_dir(folder).unwrap().count();
    let target = folder.join(number.to_string());
    let target = target.to_str().unwrap();
    let restore = ["restore", "data-dir", "latest", "--bump-revision", "0", "--data-dir", target];
    cli.run(restore.iter().chain(more)).await.unwrap().expect(0);
    let found = cli.run(["inspect", target, "--json"]).await.unwrap().expect(0).json();
    found["keys"].as_i64().unwrap()
}

#[tokio::test]
async fn a_node_holds_public_keys_alone() {
    let root = tempfile::tempdir().unwrap();
    let (operator, first) = key_pair(root.path(), "operator.txt");
    let (escrow, second) = key_pair(root.path(), "escrow.txt");
    let (stranger, _) = key_pair(root.path(), "stranger.txt");
    let vault = root.path().join("vault");
    let cluster = Cluster::builder("3.6").start().await.unwrap();
    let mut client = cluster.client().await.unwrap();
    client.put("/registry/secrets/a", "the-secret-in-etcd", None).await.unwrap();
    let node = program().vault(&vault).cluster(&cluster);
    let init = ["init", "--recipient", &first, "--recipient", &second];
    let ran = node.run(init).await.unwrap().expect(0);
    assert!(ran.text().contains(&first) && ran.text().contains(&second), "{ran}");
    assert!(!ran.stderr.contains("warning"), "{ran}");

    // The node makes backups, lists them, and verifies what it can, without a key.
    let report = node.run(["backup", "--json"]).await.unwrap().expect(0).json();
    assert_eq!(report["proof"]["state"], "proven", "{report}");
    assert_eq!(listed(&node).await, 1);
    node.run(["verify", "--all", "--level", "stored"]).await.unwrap().expect(0);
    let secret = b"the-secret-in-etcd";
    for file in files(&vault) {
        let bytes = std::fs::read(&file).unwrap();
        assert!(!bytes.windows(secret.len()).any(|w| w == secret), "{}", file.display());
    }
    // What needs a key says so, and does nothing.
    let targets = root.path().join("targets");
    std::fs::create_dir(&targets).unwrap();
    let out = root.path().join("out.db");
    let (out, wanted) = (out.to_str().unwrap(), targets.join("0"));
    let wanted = wanted.to_str().unwrap();
    let reads = [
        vec!["verify", "--all"],
        vec!["export", "latest", "-o", out],
        vec!["restore", "data-dir", "latest", "--data-dir", wanted],
        vec!["inspect", "latest"],
    ];
    for args in &reads {
        let ran = node.run(args).await.unwrap().expect(12);
        says(&ran, &["--identity-file", "ETCDVAULT_IDENTITY"]);
        let json = node.run(args.iter().chain(&["--json"])).await.unwrap().expect(12).json();
        assert_eq!(json["error"]["exit_code"], 12, "{args:?}");
    }
    // A key of somebody else: refused at once, also where it would not be needed.
    let wrong = node.clone().env("ETCDVAULT_IDENTITY_FILE", &stranger);
    for args in reads.iter().chain(&[vec!["backup"]]) {
        let ran = wrong.run(args).await.unwrap().expect(12);
        assert!(!ran.to_string().contains("AGE-SECRET-KEY"), "{ran}");
    }
    assert_eq!(std::fs::read_dir(&targets).unwrap().count(), 0);
    assert!(!Path::new(out).exists());
    assert_eq!(listed(&node).await, 1);

    // Either holder reads it, from wherever the identity comes.
    let base = program().vault(&vault);
    let operator_text = operator.to_str().unwrap();
    assert_eq!(restored(&base, &targets, &["--identity-file", operator_text]).await, 1);
    let command = format!("cat '{}'", escrow.display());
    assert_eq!(restored(&base, &targets, &["--identity-command", &command]).await, 1);
    let by_file = base.clone().env("ETCDVAULT_IDENTITY_FILE", &escrow);
    assert_eq!(restored(&by_file, &targets, &[]).await, 1);
    let text = std::fs::read_to_string(&operator).unwrap();
    let by_text = base.clone().env("ETCDVAULT_IDENTITY", &text);
    assert_eq!(restored(&by_text, &targets, &[]).await, 1);
    let by_command = base.clone().env("ETCDVAULT_IDENTITY_COMMAND", &command);
    assert_eq!(restored(&by_command, &targets, &[]).await, 1);
    let credentials = root.path().join("credentials");
    std::fs::create_dir(&credentials).unwrap();
    std::fs::copy(&operator, credentials.join("etcdvault-identity")).unwrap();
    let by_unit = base.clone().env("CREDENTIALS_DIRECTORY", &credentials);
    assert_eq!(restored(&by_unit, &targets, &[]).await, 1);
    by_unit.run(["verify", "--all"]).await.unwrap().expect(0);

    // Keys that are none, and places that hold none.
    let nonsense = root.path().join("nonsense.txt");
    std::fs::write(&nonsense, "AGE-SECRET-KEY-1NONSENSE\n").unwrap();
    let empty = root.path().join("empty.txt");
    std::fs::write(&empty, "\n").unwrap();
    let bad = [
        vec!["--identity-file", nonsense.to_str().unwrap()],
        vec!["--identity-file", empty.to_str().unwrap()],
        vec!["--identity-file", "/nonexistent/identity.txt"],
        vec!["--identity-command", "exit 3"],
        vec!["--identity-command", "true"],
    ];
    for more in bad {
        let args = ["verify", "--all"].iter().chain(&more);
        let ran = base.run(args).await.unwrap();
        assert_eq!(ran.code, Some(12), "{more:?}: {ran}");
        assert!(!ran.stderr.contains("1NONSENSE"), "{ran}");
        assert!(ran.stderr.contains("hint: "), "{ran}");
    }
    let ran = base.run(["init", "--recipient", "age1nonsense"]).await.unwrap().expect(12);
    says(&ran, &["age-keygen"]);
}

#[tokio::test]
async fn a_passphrase_opens_and_seals() {
    let root = tempfile::tempdir().unwrap();
    let vault = root.path().join("vault");
    let cluster = Cluster::builder("3.6").start().await.unwrap();
    cluster.client().await.unwrap().put("a", "b", None).await.unwrap();
    let secret = root.path().join("passphrase");
    std::fs::write(&secret, "correct horse battery staple\n").unwrap();
    let secret = secret.to_str().unwrap();
    let base = program().vault(&vault).cluster(&cluster);
    base.run(["init", "--passphrase-file", secret]).await.unwrap().expect(0);

    // Sealing needs the passphrase, too: said before the stream begins.
    let ran = base.run(["backup"]).await.unwrap().expect(12);
    says(&ran, &["--passphrase-file"]);
    let ran =
        base.clone().env("ETCDVAULT_PASSPHRASE", "wrong-horse").run(["backup"]).await.unwrap();
    assert_eq!(ran.code, Some(12), "{ran}");
    assert!(!ran.stderr.contains("wrong-horse"), "{ran}");
    assert_eq!(files(&vault).len(), 2, "{:?}", files(&vault));

    base.run(["backup", "--passphrase-file", secret]).await.unwrap().expect(0);
    assert_eq!(listed(&base).await, 1, "a listing needs no key");
    let targets = root.path().join("targets");
    std::fs::create_dir(&targets).unwrap();
    let by_text = base.clone().env("ETCDVAULT_PASSPHRASE", "correct horse battery staple");
    assert_eq!(restored(&by_text, &targets, &[]).await, 1);
    let credentials = root.path().join("credentials");
    std::fs::create_dir(&credentials).unwrap();
    std::fs::copy(secret, credentials.join("etcdvault-passphrase")).unwrap();
    let by_unit = base.clone().env("CREDENTIALS_DIRECTORY", &credentials);
    by_unit.run(["backup"]).await.unwrap().expect(0);
    let command = format!("cat '{secret}'");
    base.run(["verify", "--all", "--passphrase-command", &command]).await.unwrap().expect(0);
    let ran = base.run(["verify", "latest"]).await.unwrap().expect(12);
    says(&ran, &["passphrase"]);
}

/// The password of an etcd user: wrong, missing, in a file, in a variable, never shown.
#[tokio::test]
async fn an_etcd_password() {
    let root = tempfile::tempdir().unwrap();
    let vault = common::new_vault(root.path()).await;
    let cluster = Cluster::builder("3.6").start().await.unwrap();
    let mut client = cluster.client().await.unwrap();
    client.user_add("root", "geheim", None).await.unwrap();
    client.role_add("root").await.unwrap();
    client.user_grant_role("root", "root").await.unwrap();
    client.user_add("reader", "geheim", None).await.unwrap();
    client.auth_enable().await.unwrap();
    let cli = program().vault(&vault).cluster(&cluster);
    let ran = cli.run(["backup"]).await.unwrap().expect(12);
    says(&ran, &["--user", "hint: "]);
    let wrong = cli.clone().env("ETCDCTL_USER", "root").env("ETCDCTL_PASSWORD", "falsch-geheim");
    for args in [&["backup"][..], &["status"], &["backup", "--json"]] {
        let ran = wrong.run(args).await.unwrap().expect(12);
        assert!(!ran.stderr.contains("geheim") && !ran.text().contains("geheim"), "{ran}");
    }
    let reader = cli.clone().env("ETCDCTL_USER", "reader:geheim");
    let ran = reader.run(["backup"]).await.unwrap().expect(12);
    says(&ran, &["root role"]);
    let ran = cli.run(["backup", "--user", "root:geheim"]).await.unwrap().expect(2);
    assert!(!ran.stderr.contains("geheim"), "{ran}");
    common::assert_untouched(&vault);
    cli.clone().env("ETCDCTL_USER", "root:geheim").run(["backup"]).await.unwrap().expect(0);
    let file = root.path().join("password");
    std::fs::write(&file, "geheim\n").unwrap();
    let by_file = ["backup", "--user", "root", "--password-file", file.to_str().unwrap()];
    let report = cli.run(by_file.iter().chain(&["--json"])).await.unwrap().expect(0).json();
    assert_eq!(report["proof"]["state"], "proven");
}

/// The common name of a client certificate is the user where authentication is on.
#[tokio::test]
async fn an_etcd_user_by_certificate() {
    let root = tempfile::tempdir().unwrap();
    let vault = common::new_vault(root.path()).await;
    let cluster =
        Cluster::builder("3.6").security(Security::ClientCertificates).start().await.unwrap();
    let mut client = cluster.client().await.unwrap();
    client.user_add("root", "geheim", None).await.unwrap();
    client.role_add("root").await.unwrap();
    client.user_grant_role("root", "root").await.unwrap();
    client.user_add("reader", "geheim", None).await.unwrap();
    client.auth_enable().await.unwrap();
    let cli = program().vault(&vault).cluster(&cluster);
    let tls = cluster.tls().unwrap();
    let issued = |name: &str| {
        let identity = tls.authority.client(name, name, Validity::Current).unwrap();
        cli.clone().env("ETCDCTL_CERT", identity.cert).env("ETCDCTL_KEY", identity.key)
    };

    // Somebody who is a user, and somebody who is none.
    for name in ["reader", "nobody"] {
        let ran = issued(name).run(["backup"]).await.unwrap().expect(12);
        says(&ran, &["root role", "hint: "]);
    }
    common::assert_untouched(&vault);
    // The name counts, not the file: `root`'s certificate needs neither user nor password.
    let report = cli.run(["backup", "--json"]).await.unwrap().expect(0).json();
    assert_eq!(report["proof"]["state"], "proven", "{report}");
    // A password makes another user of the same certificate.
    let reader = cli.clone().env("ETCDCTL_USER", "reader:geheim");
    let ran = reader.run(["backup"]).await.unwrap().expect(12);
    says(&ran, &["root role"]);
    let named = issued("reader").env("ETCDCTL_USER", "root:geheim");
    named.run(["backup"]).await.unwrap().expect(0);
    assert_eq!(listed(&cli).await, 2);
}
