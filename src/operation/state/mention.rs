//! What a configuration says, whatever its dialect: flags, variables, keys.
//!
//! For finding files and describing a node a reading that takes too much is fine; the
//! dialects read and edit exactly.

use super::roots::Mention;

/// The most mentions that are taken of one text.
const MAX: usize = 10_000;

/// Flags (`--name=value`, `--name value`, `-name=value`) in a text of any kind: a unit,
/// an environment file, a manifest, with quotes, commas and backslashes around them.
pub(super) fn flags(text: &str) -> Vec<Mention> {
    let end = |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '\\' | '[' | ']');
    let words: Vec<&str> = text.split(end).filter(|word| !word.is_empty()).take(MAX * 4).collect();
    of_words(&words)
}

/// Flags among the arguments of a process.
pub(super) fn arguments(words: &[String]) -> Vec<Mention> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    of_words(&words)
}

fn of_words(words: &[&str]) -> Vec<Mention> {
    let mut found = Vec::new();
    for (at, word) in words.iter().enumerate() {
        // A list of a manifest may stand on one line.
        let Some(flag) = flag(word.trim_end_matches(',')) else { continue };
        let (option, value) = match flag.split_once('=') {
            Some((option, value)) => (option, value),
            None => {
                let next = words.get(at + 1).copied().unwrap_or("");
                (flag, if self::flag(next).is_some() { "" } else { next })
            }
        };
        if !option.is_empty() && option.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            found.push(Mention { option: option.to_owned(), value: value.to_owned() });
        }
        if found.len() >= MAX {
            break;
        }
    }
    found
}

/// A flag without its dashes.
fn flag(word: &str) -> Option<&str> {
    // `NAME=--flag` and `NAME="--flag` of an environment file.
    let start = word.find("--").filter(|&at| at == 0 || word[..at].ends_with('='));
    match start {
        Some(at) => Some(&word[at + 2..]),
        None => word
            .strip_prefix('-')
            .filter(|rest| rest.len() > 1 && rest.starts_with(|c: char| c.is_ascii_lowercase())),
    }
}

/// Assignments of variables on lines of their own, by the flag that they stand for:
/// `ETCD_DATA_DIR=…` is `data-dir`.
pub(super) fn variables(text: &str) -> Vec<Mention> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.starts_with(['#', ';']))
        .filter_map(|line| {
            let line = line.strip_prefix("Environment=").unwrap_or(line).trim_start_matches('"');
            let (name, value) = line.split_once('=')?;
            variable(name.trim(), unquoted(value))
        })
        .take(MAX)
        .collect()
}

/// One variable, by the flag that it stands for.
pub(super) fn variable(name: &str, value: &str) -> Option<Mention> {
    let flag =
        ["ETCD_", "FLANNELD_", "FLANNEL_"].iter().find_map(|start| name.strip_prefix(start))?;
    let option = flag.to_ascii_lowercase().replace('_', "-");
    Some(Mention { option, value: value.to_owned() })
}

/// Keys with a plain value on one line, as in etcd's configuration file. Keys that lie
/// deeper are named by their own name, those of the transport sections as the flag is.
pub(super) fn keys(text: &str) -> Vec<Mention> {
    let mut section = "";
    let mut found = Vec::new();
    for line in text.lines() {
        let plain = line.trim();
        let Some((key, value)) = plain.split_once(':') else { continue };
        if plain.starts_with('#') || key.contains(char::is_whitespace) {
            continue;
        }
        let value = unquoted(value.split(" #").next().unwrap_or(value));
        let deeper = line.starts_with([' ', '\t']);
        if !deeper {
            section = key;
        }
        if value.is_empty() {
            continue;
        }
        let option = match (deeper, section) {
            (true, "peer-transport-security") => format!("peer-{key}"),
            _ => key.to_owned(),
        };
        found.push(Mention { option, value: value.to_owned() });
        if found.len() >= MAX {
            break;
        }
    }
    found
}

fn unquoted(value: &str) -> &str {
    let value = value.trim();
    ['"', '\'']
        .iter()
        .find_map(|&quote| value.strip_prefix(quote)?.strip_suffix(quote))
        .unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get<'a>(found: &'a [Mention], option: &str) -> Vec<&'a str> {
        found.iter().filter(|m| m.option == option).map(|m| &m.value[..]).collect()
    }

    #[test]
    fn flags_of_units_environment_files_and_manifests() {
        let unit = "[Service]\nEnvironmentFile=-/etc/default/etcd\nEnvironmentFile=/etc/x-*.env\n\
            ExecStart=/usr/bin/kube-apiserver --etcd-servers=http://10.0.0.1:2379\\\n  \
            --client-ca-file /etc/ca.crt \\\n --v=2\n";
        let found = flags(unit);
        assert_eq!(get(&found, "etcd-servers"), ["http://10.0.0.1:2379"]);
        assert_eq!(get(&found, "client-ca-file"), ["/etc/ca.crt"]);
        let environment = "DAEMON_ARGS=\"--initial-cluster-token tok --initial-cluster-state new\"\n\
            KUBE_ETCD_SERVERS=\"--etcd-servers=http://a:2379,http://b:2379\"\n";
        let found = flags(environment);
        assert_eq!(get(&found, "initial-cluster-token"), ["tok"]);
        assert_eq!(get(&found, "initial-cluster-state"), ["new"]);
        assert_eq!(get(&found, "etcd-servers"), ["http://a:2379,http://b:2379"]);
        let manifest = "  - command:\n    - etcd\n    - --data-dir=/var/lib/etcd\n    - \"--name=m1\"\n\
            \x20   command: [\"etcd\", \"--cert-file=/a\", \"--key-file=/b\"]\n";
        let found = flags(manifest);
        assert_eq!(get(&found, "data-dir"), ["/var/lib/etcd"]);
        assert_eq!(get(&found, "name"), ["m1"]);
        assert_eq!((get(&found, "cert-file"), get(&found, "key-file")), (vec!["/a"], vec!["/b"]));
    }

    #[test]
    fn variables_and_keys() {
        let found = variables(
            "# ETCD_NAME=no\nETCD_DATA_DIR=\"/var/lib/etcd/default.etcd\"\nETCD_PEER_KEY_FILE='/k'\n\
             PATH=/bin\nFLANNELD_ETCD_CAFILE=/ca\nEnvironment=\"ETCD_NAME=m1\"\n",
        );
        assert_eq!(get(&found, "data-dir"), ["/var/lib/etcd/default.etcd"]);
        assert_eq!(get(&found, "peer-key-file"), ["/k"]);
        assert_eq!(get(&found, "etcd-cafile"), ["/ca"]);
        assert_eq!(found.len(), 4);
        let found = keys(
            "name: m1 # mine\ndata-dir: '/var/lib/etcd'\nclient-transport-security:\n  key-file: /c\n\
             peer-transport-security:\n  key-file: /p\n# cert-file: /no\n",
        );
        assert_eq!(get(&found, "name"), ["m1"]);
        assert_eq!(get(&found, "key-file"), ["/c"]);
        assert_eq!(get(&found, "peer-key-file"), ["/p"]);
        assert!(get(&found, "cert-file").is_empty());
    }
}
