//! What is run on a node before an agent is there.
//!
//! A command is built from constants and from words that were checked: a digest,
//! a length, a path of few characters. The scripts stand in single quotes on one
//! line and hold no quote, exclamation mark or backslash, so that the login's own
//! shell, whichever it is, gives them to `/bin/sh` as they are.

use std::path::Path;

use super::super::remote::preamble::is_digest;

/// Runs its arguments as root.
const ELEVATE: &str = r#"LC_ALL=C; export LC_ALL; if [ "$(id -u)" = 0 ]; then exec /bin/sh -c "$@"; else exec sudo -n -- /bin/sh -c "$@"; fi"#;

/// Functions: `die`, and `chain`, which refuses a path that anyone but root and
/// this user could change a part of.
const COMMON: &str = r#"set -eu; umask 077; PATH=/usr/sbin:/usr/bin:/sbin:/bin; LC_ALL=C; export PATH LC_ALL; me=$(id -u);
die() { echo "etcdvault: $*" >&2; exit 3; };
private() { set -- "$1" $(stat -c "%u %a" -- "$1"); [ "$2" = 0 ] || [ "$2" = "$me" ] || die "unsafe path: $1 belongs to user $2"; case "$3" in *[2367]?|*[2367]) die "unsafe path: $1 can be written by others";; esac; };
chain() { at=$1; private "$at"; until [ "$at" = / ]; do at=$(dirname -- "$at"); private "$at"; done; };"#;

/// Starts the program with the digest `$1`, of `$2` bytes; asks for it where it is
/// not there.
const UPLOAD: &str = r#"hex=$1; size=$2;
if [ "$me" = 0 ]; then base=/var/lib/etcdvault-agent; else base=${HOME:?}/.cache/etcdvault/agent; fi;
mkdir -p -- "$base"; base=$(cd -P -- "$base" && pwd -P); chain "$base"; dir=$base/$hex; file=$dir/etcdvault;
good() { [ -f "$file" ] && [ "$(sha256sum < "$file" | cut -c 1-64)" = "$hex" ]; };
old() { ls -1t -- "$base" | while read -r name; do if [ "${#name}" -eq 64 ] && [ -z "$(printf %s "$name" | tr -d 0-9a-f)" ]; then echo "$name"; fi; done | tail -n +5; };
sweep() { find "$base" -maxdepth 1 -name ".new.*" -mmin +1440 -exec rm -f -- {} +; old | while read -r name; do if [ "$name" = "$hex" ] || ls -l /proc/[0-9]*/exe 2>/dev/null | grep -qF -- "$base/$name/"; then continue; fi; rm -rf -- "$base/$name"; done; };
start() { private "$dir"; private "$file"; touch -c -- "$dir"; sweep </dev/null || true; exec "$file" node-agent --digest "$hex"; };
if good; then start; fi;
echo "ETCDVAULT-WANTED $(uname -m)";
new=$(mktemp "$base/.new.XXXXXXXXXX"); clean() { rm -f -- "$new"; }; trap clean EXIT; trap "exit 3" HUP INT TERM;
head -c "$size" > "$new"; [ "$(sha256sum < "$new" | cut -c 1-64)" = "$hex" ] || die "the program arrived damaged";
chmod 0700 -- "$new"; sync -- "$new" || sync; mkdir -p -- "$dir"; mv -f -- "$new" "$file"; sync -- "$dir" || sync; sync -- "$base" || sync;
good || die "the program is not what was sent"; start"#;

/// Starts the program at `$1`.
const INSTALLED: &str = r#"[ -f "$1" ] || die "no program at $1"; file=$(readlink -f -- "$1"); chain "$file"; exec "$file" node-agent"#;

/// How the agent comes to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Start<'a> {
    /// From what was or is uploaded.
    Upload { digest: &'a str, length: u64 },
    /// From a path on the node.
    Installed(&'a Path),
}

/// The command for the login's shell, or why there is none.
pub(crate) fn command(start: &Start<'_>, as_root: bool) -> Result<String, String> {
    let (body, words) = match start {
        Start::Upload { digest, length } if is_digest(digest) => {
            (UPLOAD, format!("{digest} {length}"))
        }
        Start::Upload { .. } => return Err("the program's digest is none".to_owned()),
        Start::Installed(path) => (INSTALLED, agent_path(path)?.to_owned()),
    };
    let script = format!("{COMMON} {body}").replace('\n', " ");
    Ok(if as_root {
        format!("exec /bin/sh -c '{ELEVATE}' sh '{script}' etcdvault {words}")
    } else {
        format!("exec /bin/sh -c '{script}' etcdvault {words}")
    })
}

/// A path that means the same to every shell.
pub(crate) fn agent_path(path: &Path) -> Result<&str, String> {
    let good = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    let text = path.to_str().filter(|text| text.starts_with('/') && text.len() <= 4096);
    text.filter(|text| text.chars().all(good)).ok_or_else(|| {
        format!(
            "the agent path {:?} is refused: absolute, of letters, digits and / . _ - alone",
            path.display()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_has_quotes_only_where_they_are_meant() {
        let digest = "a1".repeat(32);
        for (as_root, quotes) in [(true, 4), (false, 2)] {
            for start in [
                Start::Upload { digest: &digest, length: 12 },
                Start::Installed(Path::new("/opt/etcdvault_1.2/bin-x")),
            ] {
                let command = command(&start, as_root).unwrap();
                assert_eq!(command.matches('\'').count(), quotes, "{command}");
                assert!(!command.contains(['\\', '!', '\n']), "{command}");
            }
        }
    }

    #[test]
    fn words_that_a_shell_would_read_are_refused() {
        for bad in ["/a b", "/a;b", "/a$b", "/a'b", "a", "", "/a\nb", "/a*", "/ü", "/~"] {
            assert!(command(&Start::Installed(Path::new(bad)), true).is_err(), "{bad:?}");
        }
        for bad in ["", "$(id)", &"a".repeat(63), &"A".repeat(64)] {
            let start = Start::Upload { digest: bad, length: 1 };
            assert!(command(&start, true).is_err(), "{bad:?}");
        }
    }
}
