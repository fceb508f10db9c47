//! Hides what is secret in a text of configuration: private keys, passwords, tokens,
//! the values of Secrets. A hidden value shows as `<hidden 1a2b3c4d>`: eight digits of a
//! digest under a key of this run, by which two values can be told apart and no value
//! can be guessed.
//!
//! Too much is hidden rather than too little.

use sha2::{Digest as _, Sha256};

/// A key of this run.
#[derive(Clone)]
pub struct Salt([u8; 32]);

impl std::fmt::Debug for Salt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Salt(…)")
    }
}

impl Salt {
    /// A fresh one.
    pub fn generate() -> Self {
        // Two ids have 160 random bits.
        let ids = [vault::layout::BackupId::generate(), vault::layout::BackupId::generate()];
        Self(Sha256::digest(format!("{}{}", ids[0], ids[1])).into())
    }

    /// What stands for `secret`.
    pub fn hidden(&self, secret: &[u8]) -> String {
        let mut hash = Sha256::new();
        hash.update(self.0);
        hash.update(secret);
        let digest = vault::digest::Sha256(hash.finalize().into()).to_string();
        format!("<hidden {}>", &digest[..8])
    }
}

/// `text` of the file at `path` with its secrets hidden.
pub fn mask(path: &str, text: &str, salt: &Salt) -> String {
    if is_secret_as_a_whole(path) {
        return if text.is_empty() { String::new() } else { salt.hidden(text.as_bytes()) + "\n" };
    }
    if text.trim_start().starts_with(['{', '['])
        && let Ok(mut value) = serde_json::from_str(text)
    {
        mask_json(&mut value, false, salt);
        // Plain data that was parsed a line above.
        return serde_json::to_string_pretty(&value).unwrap_or_default() + "\n";
    }
    mask_lines(text, salt)
}

/// Whether a file's name says that all of it is secret.
fn is_secret_as_a_whole(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path).to_ascii_lowercase();
    let said = ["token", "passw", "basic_auth", "basic-auth", "htpasswd", "shadow"];
    let public = [".crt", ".pem", ".yaml", ".yml", ".json", ".conf", ".service", ".env", ".pub"];
    let by_name = said.iter().any(|word| name.contains(word))
        && !public.iter().any(|end| name.ends_with(end));
    by_name || [".p12", ".pfx", ".jks", ".csv"].iter().any(|end| name.ends_with(end))
}

/// Whether the value of what is called `key` is secret.
fn is_secret(key: &str) -> bool {
    let plain: String =
        key.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect();
    // Names of files, and settings about secrets, are none.
    const ABOUT: &[&str] = &[
        "file",
        "files",
        "dir",
        "path",
        "ttl",
        "name",
        "namespace",
        "type",
        "mode",
        "config",
        "enabled",
        "issuer",
        "audience",
        "audiences",
        "webhookversion",
        "expiration",
        "controller",
        "ref",
        "secretbox",
        "secrets",
        "count",
        "ca",
        "renewdeadline",
        "cachettl",
        "certificate",
    ];
    if ABOUT.iter().any(|end| plain.ends_with(end)) || plain.contains("clustertoken") {
        return false;
    }
    const SECRET: &[&str] = &[
        "password",
        "passwd",
        "passphrase",
        "secret",
        "token",
        "privatekey",
        "keydata",
        "apikey",
        "accesskey",
        "secretkey",
        "credential",
        "jwt",
        "cookie",
    ];
    SECRET.iter().any(|word| plain.contains(word)) || plain == "auth" || plain == "pwd"
}

fn mask_json(value: &mut serde_json::Value, secret: bool, salt: &Salt) {
    use serde_json::Value;
    match value {
        Value::Object(members) => {
            let is_secret_object = members.get("kind").is_some_and(|kind| kind == "Secret");
            for (key, value) in members.iter_mut() {
                let of_secret = is_secret_object && (key == "data" || key == "stringData");
                mask_json(value, secret || of_secret || is_secret(key), salt);
            }
        }
        Value::Array(values) => values.iter_mut().for_each(|value| mask_json(value, secret, salt)),
        Value::String(text) if secret => *text = salt.hidden(text.as_bytes()),
        Value::Number(number) if secret => {
            *value = Value::String(salt.hidden(number.to_string().as_bytes()));
        }
        Value::String(text) => {
            // A document within: an annotation, a last applied configuration.
            *text = match mask_lines(text, salt) {
                masked if text.ends_with('\n') => masked,
                masked => masked.trim_end_matches('\n').to_owned(),
            };
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Lines that are hidden as one block.
enum Block {
    /// A private key, up to its end.
    Key { lines: String, indent: String },
    /// Everything that is indented deeper.
    Deeper { than: usize, lines: String },
    /// Values of a Secret: everything that is indented deeper, line by line.
    Values { than: usize },
}

fn mask_lines(text: &str, salt: &Salt) -> String {
    let secret_documents = secret_documents(text);
    let mut masked = String::with_capacity(text.len());
    let mut block: Option<Block> = None;
    let mut document = 0;
    for line in text.lines() {
        let indent = line.len() - line.trim_start().len();
        match &mut block {
            Some(Block::Key { lines, indent }) => {
                lines.push_str(line.trim());
                if line.contains("-----END ") {
                    masked.push_str(&format!("{indent}{}\n", salt.hidden(lines.as_bytes())));
                    block = None;
                }
                continue;
            }
            Some(Block::Deeper { than, lines }) if line.trim().is_empty() || indent > *than => {
                lines.push_str(line);
                lines.push('\n');
                continue;
            }
            Some(Block::Values { than }) if line.trim().is_empty() || indent > *than => {
                masked.push_str(&mask_value_line(line, salt));
                masked.push('\n');
                continue;
            }
            Some(Block::Deeper { than, lines }) => {
                let hidden = salt.hidden(lines.as_bytes());
                masked.push_str(&format!("{}{hidden}\n", " ".repeat(*than + 2)));
                block = None;
            }
            Some(Block::Values { .. }) => block = None,
            None => {}
        }
        if line.trim_end() == "---" {
            document += 1;
        }
        if line.contains("-----BEGIN ") && line.contains("PRIVATE KEY") {
            if line.contains("-----END ") {
                masked.push_str(&format!("{}\n", salt.hidden(line.as_bytes())));
            } else {
                let indent = line[..indent].to_owned();
                block = Some(Block::Key { lines: line.trim().to_owned(), indent });
            }
            continue;
        }
        let key = line.trim().trim_start_matches("- ");
        let of_secret = secret_documents.get(document) == Some(&true);
        if of_secret && matches!(key, "data:" | "stringData:") {
            masked.push_str(line);
            masked.push('\n');
            block = Some(Block::Values { than: indent });
            continue;
        }
        if let Some((name, value)) = key.split_once(':')
            && is_secret(name.trim_matches(['"', '\'', ' ']))
            && (value.trim().is_empty() || value.trim_start().starts_with(['|', '>']))
        {
            masked.push_str(line);
            masked.push('\n');
            block = Some(Block::Deeper { than: indent, lines: String::new() });
            continue;
        }
        masked.push_str(&mask_line(line, salt));
        masked.push('\n');
    }
    match block {
        // A key without an end is a key all the same.
        Some(Block::Key { lines, indent }) => {
            masked.push_str(&format!("{indent}{}\n", salt.hidden(lines.as_bytes())));
        }
        Some(Block::Deeper { than, lines }) if !lines.is_empty() => {
            let hidden = salt.hidden(lines.as_bytes());
            masked.push_str(&format!("{}{hidden}\n", " ".repeat(than + 2)));
        }
        _ => {}
    }
    if !text.ends_with('\n') && masked.ends_with('\n') {
        masked.pop();
    }
    masked
}

/// Which of a text's YAML documents hold a Secret.
fn secret_documents(text: &str) -> Vec<bool> {
    let mut found = vec![false];
    for line in text.lines() {
        let plain = line.trim().trim_start_matches("- ");
        if line.trim_end() == "---" {
            found.push(false);
        } else if let Some(kind) = plain.strip_prefix("kind:")
            && kind.trim().trim_matches(['"', '\'']) == "Secret"
            && let Some(last) = found.last_mut()
        {
            *last = true;
        }
    }
    found
}

/// A line of a Secret's values: all behind the key.
fn mask_value_line(line: &str, salt: &Salt) -> String {
    let indent = &line[..line.len() - line.trim_start().len()];
    match line.trim().split_once(':') {
        _ if line.trim().is_empty() => line.to_owned(),
        Some((key, value)) if !key.contains(char::is_whitespace) && !value.trim().is_empty() => {
            format!("{indent}{key}: {}", salt.hidden(value.trim().as_bytes()))
        }
        Some((_, "")) if line.trim().ends_with(':') => line.to_owned(),
        _ => format!("{indent}{}", salt.hidden(line.trim().as_bytes())),
    }
}

/// One line that is part of no block.
fn mask_line(line: &str, salt: &Salt) -> String {
    let line = mask_addresses(line, salt);
    let mut masked = String::with_capacity(line.len());
    let mut rest = &line[..];
    // Each word, with what separates it from the next: several flags may share a line.
    let mut expected = false;
    while !rest.is_empty() {
        let start = rest.find(|c: char| !is_space(c)).unwrap_or(rest.len());
        masked.push_str(&rest[..start]);
        rest = &rest[start..];
        let end = rest.find(is_space).unwrap_or(rest.len());
        let (word, tail) = rest.split_at(end);
        rest = tail;
        if word.is_empty() {
            continue;
        }
        if expected && matches!(word, "=" | ":") {
            masked.push_str(word);
            continue;
        }
        if std::mem::take(&mut expected) && !word.starts_with("--") {
            // A passphrase may hold spaces: it lasts to the end of the line or to a flag.
            let more = tail.find(" --").unwrap_or(tail.len());
            let secret = format!("{word}{}", &tail[..more]);
            masked.push_str(&hide_quoted(secret.trim_end(), salt));
            rest = &tail[more..];
            continue;
        }
        if let Some((at, separator)) = word.char_indices().find(|&(_, c)| c == '=' || c == ':')
            && is_secret(name_of(&word[..at]))
            && !word[at..].starts_with("://")
        {
            let value = &word[at + separator.len_utf8()..];
            masked.push_str(&word[..=at]);
            if value.is_empty() {
                expected = true;
            } else {
                // Quoted values may go on behind a space.
                let more = match value.chars().next() {
                    Some(quote @ ('"' | '\'')) if !value[1..].contains(quote) => {
                        tail.find(quote).map_or(tail.len(), |at| at + 1)
                    }
                    _ => 0,
                };
                masked.push_str(&hide_quoted(&format!("{value}{}", &tail[..more]), salt));
                rest = &tail[more..];
            }
            continue;
        }
        // `NAME="--token=x` and `"--token=x"`: the flag within.
        if let Some(at) = word.find("--")
            && let Some((flag, value)) = word[at..].split_once('=')
            && is_secret(flag)
        {
            masked.push_str(&word[..at + flag.len() + 1]);
            masked.push_str(&hide_quoted(value, salt));
            continue;
        }
        // `--password x`, and `password = x` as some files have it.
        let assigned = tail.trim_start().starts_with(['=', ':']);
        if is_secret(word) && (word.starts_with("--") || assigned) {
            expected = true;
        }
        masked.push_str(&if is_secret_word(word) {
            salt.hidden(word.as_bytes())
        } else {
            word.into()
        });
    }
    masked
}

fn is_space(c: char) -> bool {
    c.is_whitespace()
}

/// The name in front of a separator: without quotes, dashes and what precedes a quote.
fn name_of(text: &str) -> &str {
    text.rsplit(['"', '\'', '=', ',', '{']).find(|part| !part.is_empty()).unwrap_or(text)
}

/// A secret with the quotes and commas around it left as they are.
fn hide_quoted(value: &str, salt: &Salt) -> String {
    let start = value.len() - value.trim_start_matches(['"', '\'']).len();
    let end = value.trim_end_matches(['"', '\'', ',', '\\']).len().max(start);
    let (front, secret, back) = (&value[..start], &value[start..end], &value[end..]);
    if secret.is_empty() {
        return value.to_owned();
    }
    format!("{front}{}{back}", salt.hidden(secret.as_bytes()))
}

/// Whether a word is secret whatever it is called: a JSON web token, a private key in
/// base 64.
fn is_secret_word(word: &str) -> bool {
    // "PRIVATE KEY" in base 64 at each of the three offsets, as far as it does not
    // depend on what stands before and behind.
    const KEYS: [&str; 3] = ["UFJJVkFURSBLRV", "BSSVZBVEUgS0VZ", "QUklWQVRFIEtF"];
    let token = word
        .split(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')))
        .any(|part| part.starts_with("eyJ") && part.split('.').count() == 3 && part.len() > 30);
    token || word.len() > 60 && KEYS.iter().any(|key| word.contains(key))
}

/// Passwords in URLs: `https://user:password@host`.
fn mask_addresses(line: &str, salt: &Salt) -> String {
    let mut masked = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = rest.find("://") {
        let (front, tail) = rest.split_at(at + 3);
        masked.push_str(front);
        let end = tail
            .find(|c: char| c.is_whitespace() || matches!(c, '/' | ',' | '"' | '\''))
            .unwrap_or(tail.len());
        let authority = &tail[..end];
        match authority
            .rsplit_once('@')
            .and_then(|(user, host)| Some((user.split_once(':')?, host)))
        {
            Some(((user, password), host)) => {
                masked.push_str(&format!("{user}:{}@{host}", salt.hidden(password.as_bytes())));
            }
            None => masked.push_str(authority),
        }
        rest = &tail[end..];
    }
    masked.push_str(rest);
    masked
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(path: &str, text: &str) -> String {
        mask(path, text, &Salt([7; 32]))
    }

    /// No secret of a text may be left in it, and what is none stays.
    fn hides(text: &str, secrets: &[&str], stays: &[&str]) {
        let masked = masked("/etc/x.conf", text);
        for secret in secrets {
            assert!(text.contains(secret), "{secret}");
            assert!(!masked.contains(secret), "{secret} in:\n{masked}");
        }
        for word in stays {
            assert!(masked.contains(word), "{word} not in:\n{masked}");
        }
        assert!(masked.contains("<hidden "), "{masked}");
    }

    #[test]
    fn private_keys_in_every_dress() {
        let key = "-----BEGIN RSA PRIVATE KEY-----\nMIIabc\ndef==\n-----END RSA PRIVATE KEY-----\n";
        hides(&format!("# mine\n{key}after\n"), &["MIIabc", "def=="], &["# mine", "after"]);
        hides("-----BEGIN EC PRIVATE KEY-----\nMIIabc\n", &["MIIabc"], &[]);
        hides(
            "a:\n  b: |\n    -----BEGIN PRIVATE KEY-----\n    MIIq\n    -----END PRIVATE KEY-----\nc: 1\n",
            &["MIIq"],
            &["c: 1"],
        );
        // In base 64, at every offset.
        for front in ["", "x", "xx"] {
            let plain = format!("{front}-----BEGIN PRIVATE KEY-----\n{}", "k".repeat(60));
            let text = format!("some: {}\n", base64(plain.as_bytes()));
            hides(&text, &[&base64(plain.as_bytes())], &["some:"]);
        }
    }

    fn base64(bytes: &[u8]) -> String {
        const DIGITS: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut text = String::new();
        for three in bytes.chunks(3) {
            let number =
                three.iter().fold(0u32, |n, &b| n << 8 | u32::from(b)) << (8 * (3 - three.len()));
            for at in 0..=three.len() {
                text.push(char::from(DIGITS[(number >> (18 - 6 * at)) as usize & 63]));
            }
        }
        text
    }

    #[test]
    fn kubeconfigs_tokens_and_secrets() {
        hides(
            "users:\n- name: admin\n  user:\n    client-certificate-data: LS0tPUB\n    \
             client-key-data: LS0tSECRET\n    token: abc.def\n    password: \"two words\"\n",
            &["LS0tSECRET", "abc.def", "two words"],
            &["name: admin", "LS0tPUB"],
        );
        hides(
            "kind: EncryptionConfiguration\nresources:\n- providers:\n  - aescbc:\n      keys:\n      - name: key1\n        secret: /c2VjcmV0\n",
            &["/c2VjcmV0"],
            &["name: key1"],
        );
        hides(
            "apiVersion: v1\nkind: Secret\nmetadata:\n  name: s\ndata:\n  user: YWRtaW4=\n  multi: |\n    zeile\ntype: Opaque\n---\nkind: ConfigMap\ndata:\n  open: value\n",
            &["YWRtaW4=", "zeile"],
            &["name: s", "type: Opaque", "open: value", "user: "],
        );
        hides(
            "a: eyJhbGciOiJSUzI1NiIsImtpZCI6IiJ9.eyJpc3MiOiJrdWJlcm5ldGVz.c2lnbmF0dXJl\nb: 2\n",
            &["eyJhbGciOiJSUzI1NiIsImtpZCI6IiJ9"],
            &["b: 2"],
        );
        let json =
            r#"{"auths":{"r":{"auth":"dXNlcjpwdw=="}},"kind":"Secret","data":{"k":"djE="},"n":1}"#;
        hides(json, &["dXNlcjpwdw==", "djE="], &["\"n\": 1"]);
    }

    #[test]
    fn flags_variables_and_addresses() {
        hides(
            "ExecStart=/bin/x --token=abc123 --name m1 --password 's3 cret' --v=2\n",
            &["abc123", "s3 cret"],
            &["--name m1", "--v=2"],
        );
        hides("ETCD_PASSWORD=\"geheim\"\nETCD_NAME=m1\n", &["geheim"], &["ETCD_NAME=m1"]);
        hides("DAEMON_ARGS=\"--bearer-token=qqq --name=m1\"\n", &["qqq"], &["--name=m1"]);
        hides(
            "- --etcd-servers=https://root:pw1@10.0.0.1:2379\n",
            &["pw1"],
            &["root:", "10.0.0.1:2379"],
        );
        hides("password = geheim und mehr\n", &["geheim", "mehr"], &["password ="]);
        assert_eq!(masked("/etc/kubernetes/known_tokens.csv", "t,u,1\n").lines().count(), 1);
        hides_whole("/etc/kubernetes/pki/bootstrap-token", "abcdef.0123456789abcdef\n");
    }

    fn hides_whole(path: &str, text: &str) {
        let masked = masked(path, text);
        assert!(masked.starts_with("<hidden ") && !masked.contains(text.trim()), "{masked}");
    }

    #[test]
    fn what_is_no_secret_stays_byte_for_byte() {
        let text = "# comment\nETCD_INITIAL_CLUSTER_TOKEN=etcd-1\n    - --service-account-key-file=/etc/kubernetes/pki/sa.pub\n    \
            - --token-auth-file=/srv/t.csv\n    - --etcd-keyfile=/k\n-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n\
            - --enable-bootstrap-token-auth=true is:\ttab  two\nkind: Pod\nlast without end";
        let masked = masked("/etc/x.conf", text);
        let changed: Vec<_> = text.lines().zip(masked.lines()).filter(|(a, b)| a != b).collect();
        // The one that is called like a secret is hidden rather than shown.
        assert_eq!(changed.len(), 1, "{changed:?}");
        assert!(changed[0].0.contains("bootstrap-token-auth"));
        assert!(!masked.ends_with('\n'));
    }

    #[test]
    fn equal_secrets_look_equal_in_one_run_only() {
        let (a, b) = (Salt::generate(), Salt::generate());
        assert_eq!(a.hidden(b"x"), a.hidden(b"x"));
        assert_ne!(a.hidden(b"x"), a.hidden(b"y"));
        assert_ne!(a.hidden(b"x"), b.hidden(b"x"));
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_masked_without_a_panic(text in "\\PC{0,40}(\n[ -]{0,3}(token|kind|data|x)[:= ]{1,2}\\PC{0,20}){0,4}\n?") {
            let _ = masked("/etc/x", &text);
        }

        #[test]
        fn what_follows_a_secret_name_is_never_shown(secret in "[a-zA-Z0-9+/]{8,40}", form in 0usize..6) {
            let text = match form {
                0 => format!("password: {secret}"),
                1 => format!("API_TOKEN={secret}"),
                2 => format!("x --client-secret={secret} --y"),
                3 => format!("x --client-secret {secret} --y"),
                4 => format!("{{\"token\": \"{secret}\"}}"),
                _ => format!("  secret: \"{secret}\" # c"),
            };
            proptest::prop_assert!(!masked("/etc/x", &text).contains(&secret));
        }
    }
}
