//! Mistakes are found, all of them, where they are, and no secret is repeated.

use super::*;

fn problems(text: &str) -> Vec<String> {
    match parse(text) {
        Ok(parsed) => panic!("taken: {:?}", parsed.config),
        Err(problems) => problems.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn an_unknown_key_says_what_was_meant() {
    let text =
        "# head\n\n[vault.main]\nlocation = \"/srv\"\n\n[cluster.prod]\nendpoint = [\"a\"]\n";
    assert_eq!(
        problems(text),
        ["unknown key `endpoint` in [cluster.prod] at line 7, column 1: did you mean `endpoints`?"]
    );
    let near = |key: &str, section: &str, more: &str| {
        problems(&format!("[{section}]\n{more}\n{key} = \"x\"\n")).join("; ")
    };
    let vault = "location = \"/v\"";
    for (key, section, more, meant) in [
        ("ca-cert", "cluster.a", "", "cacert"),
        ("dial_timeout", "cluster.a", "", "dial-timeout"),
        ("discovery-serv", "cluster.a", "", "discovery-srv"),
        ("adress", "node.a", "", "address"),
        ("s3-regoin", "vault.a", vault, "s3-region"),
        ("identityfile", "vault.a", vault, "identity-file"),
    ] {
        let said = near(key, section, more);
        assert!(said.contains(&format!("did you mean `{meant}`?")), "{key}: {said}");
    }
    // What is far from everything gets no suggestion; retention is not there yet.
    let said = near("retention", "vault.a", vault);
    assert_eq!(said, "unknown key `retention` in [vault.a] at line 3, column 1");
    assert!(problems("[clusters.prod]\n")[0].contains("did you mean `cluster`?"));
    assert!(problems("vault = \"/srv\"\n")[0].contains("write [vault.NAME]"));
    assert!(problems("[cluster]\nendpoints = [\"a\"]\n")[0].contains("below [cluster.NAME]"));
}

#[test]
fn every_mistake_is_found_at_once_in_the_order_of_the_file() {
    let text = "[cluster.prod]\nendpoints = [\"ftp://x\"]\ncert = \"/c\"\nvault = \"mian\"\n\
                dial-timeout = \"soon\"\n[vault.main]\nlocation = \"gs://x\"\nworkers = 65\n\
                [node.a]\nssh = \"-oProxyCommand=x\"\n";
    let said = problems(text);
    let parts = [
        ("line 2,", "scheme must be http or https"),
        ("line 3,", "`cert` stands without `key`"),
        ("line 4,", "did you mean `main`?"),
        ("line 5,", "no duration"),
        ("line 7,", "a vault cannot be on gs://"),
        ("line 8,", "no number from 1 to 64"),
        ("line 10,", "no name or address"),
    ];
    assert_eq!(said.len(), parts.len(), "{said:#?}");
    for (said, (line, what)) in said.iter().zip(parts) {
        assert!(said.contains(line) && said.contains(what), "{said}");
    }
}

#[test]
fn broken_toml_has_its_place() {
    let said = problems("[vault.main]\nlocation = \"/srv\nx = 1\n").join("; ");
    assert!(said.contains("line 2"), "{said}");
    let said = problems("[vault.a]\nlocation = \"/a\"\nlocation = \"/b\"\n").join("; ");
    assert!(said.contains("line 3") && said.contains("duplicate"), "{said}");
    let deep = format!("x = {}", "[".repeat(100_000));
    assert!(parse(&deep).is_err());
    // Columns count characters, also behind others than ASCII.
    let said = problems("[vault.a]\nlocation = \"ä\"\n[cluster.a]\n\"ü\" = 1\n");
    assert_eq!(said, ["unknown key `ü` in [cluster.a] at line 4, column 1"]);
}

#[test]
fn a_secret_is_refused_with_the_remedy_and_not_repeated() {
    const IDENTITY: &str =
        "AGE-SECRET-KEY-1QQPQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQS2GD00";
    const PEM: &str = "-----BEGIN PRIVATE KEY-----\\ngeheim\\n-----END PRIVATE KEY-----";
    let vault = "[vault.a]\nlocation = \"/a\"\n";
    for (text, remedy) in [
        ("[cluster.a]\nuser = \"root\"\npassword = \"geheim\"\n".to_owned(), "password-file"),
        ("[cluster.a]\nuser = \"root:geheim\"\n".to_owned(), "password-file"),
        (format!("[cluster.a]\ncert = \"/c\"\nkey = \"{PEM}\"\n"), "name of a file"),
        (
            "[cluster.a]\nendpoints = [\"https://root:geheim@a:1\"]\n".to_owned(),
            "https://10.0.0.11",
        ),
        (format!("{vault}identity = \"{IDENTITY}\"\n"), "identity-command"),
        (format!("{vault}identity-file = \"{IDENTITY}\"\n"), "name of a file"),
        (format!("{vault}recipients = [\"{IDENTITY}\"]\n"), "name of a file"),
        (format!("{vault}passphrase = \"geheim\"\n"), "passphrase-credential"),
        (
            "[vault.a]\nlocation = \"s3://bucket\"\ns3-secret-access-key = \"geheim\"\n".to_owned(),
            "AWS",
        ),
        (format!("[cluster.{IDENTITY}]\n"), "letters"),
        (format!("{vault}\n[cluster.a]\nvault = \"{IDENTITY}\"\n"), "name of a file"),
        (format!("{vault}{IDENTITY} = 1\n"), ""),
    ] {
        let said = problems(&text).join("; ");
        assert!(said.contains(remedy), "{text}: {said}");
        assert!(!said.contains("geheim") && !said.contains(&IDENTITY[16..]), "{said}");
    }
}

#[test]
fn values_that_contradict_each_other() {
    let vault = "[vault.a]\nlocation = \"/a\"\n";
    for (text, what) in [
        (
            "[cluster.a]\nendpoints = [\"a\"]\ndiscovery-srv = \"b\"\n".to_owned(),
            "beside `endpoints`",
        ),
        ("[cluster.a]\ndiscovery-srv-name = \"b\"\n".to_owned(), "without `discovery-srv`"),
        ("[cluster.a]\npassword-file = \"/p\"\n".to_owned(), "without a user"),
        ("[cluster.a]\nnodes = [\"x\"]\n".to_owned(), "add a section [node.x]"),
        ("[cluster.a]\nstate-paths = [\"etc\"]\n".to_owned(), "no absolute path"),
        ("[cluster.a]\ncacert = \"~/ca.crt\"\n".to_owned(), "home directory"),
        ("[cluster.a]\nendpoints = []\n".to_owned(), "is empty"),
        ("[cluster.a]\nendpoints = \"a\"\n".to_owned(), "no list"),
        ("[vault.a]\n".to_owned(), "no location"),
        (format!("{vault}s3-region = \"x\"\n"), "not on S3"),
        (
            format!("{vault}identity-file = \"/i\"\npassphrase-file = \"/p\"\n"),
            "beside an identity",
        ),
        (
            format!("{vault}identity-file = \"/i\"\nidentity-env = \"I\"\n"),
            "beside `identity-file`",
        ),
        ("[node.a]\nroles = [\"leader\"]\n".to_owned(), "no role"),
        ("[node.\"a b\"]\n".to_owned(), "cannot be the name"),
    ] {
        let said = problems(&text);
        assert!(said.len() == 1 && said[0].contains(what), "{text}: {said:?}");
    }
}

#[test]
fn a_number_may_stand_for_an_option_of_the_store() {
    let text = "[vault.a]\nlocation = \"s3://bucket/p\"\ns3-attempts = 7\ns3-region = \"x\"\n";
    let parsed = parse(text).unwrap();
    assert_eq!(parsed.config.vaults["a"].s3["attempts"], "7");
    assert_eq!(parsed.position("vault.a", "s3-region"), Some(Position { line: 4, column: 1 }));
    assert_eq!(parsed.position("vault.a", "s3-sse"), None);
    assert!(
        problems("[vault.a]\nlocation = \"s3://bucket\"\ns3-checksum = \"md5\"\n")[0]
            .contains("md5")
    );
}
