//! The two lines before HTTP/2: who the agent is, and who asks it.
//!
//! What a login prints before the agent's line is skipped, [`BANNER_LIMIT`] at
//! most. Pure over bytes.

use super::wire::PROTOCOL;
use crate::node::NodeName;

/// How much may stand before the agent's line, in bytes.
pub const BANNER_LIMIT: usize = 64 << 10;
/// The longest line, its magic and newline counted.
pub const LINE_LIMIT: usize = 512;

const AGENT: &str = "ETCDVAULT-AGENT ";
const WANTED: &str = "ETCDVAULT-WANTED ";
const OPERATOR: &str = "ETCDVAULT-OPERATOR ";

/// Which program an agent is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The protocol that it speaks.
    pub protocol: u32,
    /// Its version, such as `0.1.0`.
    pub version: String,
    /// The SHA-256 of its file, in hex.
    pub digest: String,
}

impl Identity {
    /// This program, whose file has the SHA-256 `digest`.
    pub fn own(digest: impl Into<String>) -> Self {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Self { protocol: PROTOCOL, version, digest: digest.into() }
    }

    /// The agent's line.
    pub fn line(&self) -> String {
        format!("\n{AGENT}{} {} {}\n", self.protocol, self.version, self.digest)
    }
}

/// What comes before HTTP/2 on the agent's side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Greeting {
    /// An agent runs.
    Agent(Identity),
    /// None is there: the program is to be sent to a machine of this architecture.
    Wanted {
        /// The processor as `uname -m` names it.
        arch: String,
    },
}

/// Why there was no greeting.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GreetingError {
    /// More than [`BANNER_LIMIT`] bytes without one.
    #[error("printed more than {BANNER_LIMIT} bytes before the agent's greeting")]
    Banner,
    /// The magic, and then nothing that could be read.
    #[error("sent a greeting that cannot be read")]
    Malformed,
}

/// Looks for a greeting in what was read so far. `Some` gives it with how many
/// bytes it and what stood before it take.
pub fn find(read: &[u8]) -> Result<Option<(Greeting, usize)>, GreetingError> {
    let first = [AGENT, WANTED]
        .iter()
        .filter_map(|magic| position(read, magic.as_bytes()).map(|at| (at, *magic)))
        .min();
    let Some((at, magic)) = first else {
        let over = read.len() > BANNER_LIMIT + LINE_LIMIT;
        return if over { Err(GreetingError::Banner) } else { Ok(None) };
    };
    if at > BANNER_LIMIT {
        return Err(GreetingError::Banner);
    }
    let rest = &read[at + magic.len()..];
    let line = &rest[..rest.len().min(LINE_LIMIT)];
    let Some(end) = line.iter().position(|byte| *byte == b'\n') else {
        return if rest.len() >= LINE_LIMIT { Err(GreetingError::Malformed) } else { Ok(None) };
    };
    let line = std::str::from_utf8(&line[..end]).map_err(|_| GreetingError::Malformed)?;
    let words: Vec<&str> = line.trim_end_matches('\r').split(' ').collect();
    let greeting = match (magic, words.as_slice()) {
        (AGENT, [protocol, version, digest]) if is_word(version) && is_digest(digest) => {
            let protocol = protocol.parse().map_err(|_| GreetingError::Malformed)?;
            let (version, digest) = ((*version).to_owned(), (*digest).to_owned());
            Greeting::Agent(Identity { protocol, version, digest })
        }
        (WANTED, [arch]) if is_word(arch) => Greeting::Wanted { arch: (*arch).to_owned() },
        _ => return Err(GreetingError::Malformed),
    };
    Ok(Some((greeting, at + magic.len() + end + 1)))
}

/// The operator's line.
pub fn operator_line(node: &NodeName) -> String {
    format!("{OPERATOR}{PROTOCOL} {} {node}\n", env!("CARGO_PKG_VERSION"))
}

/// Reads the operator's line without its newline: the protocol and what it calls
/// the node.
pub fn parse_operator(line: &[u8]) -> Option<(u32, NodeName)> {
    let line = std::str::from_utf8(line).ok()?.strip_prefix(OPERATOR)?;
    let [protocol, version, name] = line.split(' ').collect::<Vec<_>>()[..] else { return None };
    if !is_word(version) {
        return None;
    }
    Some((protocol.parse().ok()?, NodeName::new(name).ok()?))
}

/// Whether `text` is a SHA-256 in lower-case hex.
pub(crate) fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

fn is_word(text: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"._+-".contains(&byte);
    !text.is_empty() && text.len() <= 64 && text.bytes().all(good)
}

fn position(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> Identity {
        Identity::own("0123456789abcdef".repeat(4))
    }

    #[test]
    fn a_greeting_is_found_behind_a_banner_and_not_a_byte_beyond_is_taken() {
        for banner in ["", "\n", "Welcome!\r\n\u{fffd}", "no newline at its end"] {
            let mut bytes = banner.as_bytes().to_vec();
            bytes.extend_from_slice(own().line().as_bytes());
            let length = bytes.len();
            for end in 0..length {
                assert_eq!(find(&bytes[..end]), Ok(None), "{banner:?} {end}");
            }
            bytes.extend_from_slice(b"\0\0\x18\x04");
            assert_eq!(find(&bytes), Ok(Some((Greeting::Agent(own()), length))));
        }
        let wanted = b"hello\nETCDVAULT-WANTED aarch64\nrest";
        let arch = "aarch64".to_owned();
        assert_eq!(find(wanted), Ok(Some((Greeting::Wanted { arch }, wanted.len() - 4))));
    }

    #[test]
    fn a_banner_has_a_bound() {
        let mut bytes = vec![b'x'; BANNER_LIMIT - 1];
        bytes.extend_from_slice(own().line().as_bytes());
        assert!(matches!(find(&bytes), Ok(Some(_))));
        bytes.insert(0, b'x');
        bytes.insert(0, b'x');
        assert_eq!(find(&bytes), Err(GreetingError::Banner));
        assert_eq!(find(&vec![b'x'; BANNER_LIMIT * 2]), Err(GreetingError::Banner));
    }

    #[test]
    fn greetings_that_are_none_are_refused() {
        let digest = "a".repeat(64);
        for line in [
            "ETCDVAULT-AGENT 1 0.1.0\n".to_owned(),
            format!("ETCDVAULT-AGENT one 0.1.0 {digest}\n"),
            format!("ETCDVAULT-AGENT 1 \x1b[2J {digest}\n"),
            format!("ETCDVAULT-AGENT 1 0.1.0 {}\n", digest.to_uppercase()),
            format!("ETCDVAULT-AGENT {}", "x".repeat(LINE_LIMIT)),
            "ETCDVAULT-WANTED \n".to_owned(),
            "ETCDVAULT-WANTED x86_64;reboot\n".to_owned(),
        ] {
            assert_eq!(find(line.as_bytes()), Err(GreetingError::Malformed), "{line:?}");
        }
    }

    #[test]
    fn the_operators_line_comes_back() {
        let name = NodeName::new("cp-1.example").unwrap();
        let line = operator_line(&name);
        let parsed = parse_operator(line.trim_end().as_bytes());
        assert_eq!(parsed, Some((PROTOCOL, name)));
        for line in
            ["", "GET / HTTP/1.1", "ETCDVAULT-OPERATOR 1 0.1.0", "ETCDVAULT-OPERATOR 1 0.1.0 /x"]
        {
            assert_eq!(parse_operator(line.as_bytes()), None, "{line:?}");
        }
    }
}
