//! Small JSON files that carry their own digest, and the bounds within which any
//! JSON of a vault is read.
//!
//! A sealed document is a JSON object, written with two spaces of indentation,
//! whose last lines are exactly
//!
//! ```text
//!   "sha256": "<64 hexadecimal digits>"
//! }
//! ```
//!
//! where the digest is that of the whole file with those 64 digits replaced by
//! zeros. Any changed, missing or added byte is noticed.

use serde::Serialize;
use serde_json::Value;

use crate::digest::Sha256;

/// The largest JSON file of a vault, in bytes.
pub const MAX_SIZE: u64 = 1 << 20;
/// How deep objects and arrays may nest.
pub const MAX_DEPTH: usize = 32;

const BEFORE: &[u8] = b",\n  \"sha256\": \"";
const ZEROS: &[u8; 64] = &[b'0'; 64];
const AFTER: &[u8] = b"\"\n}\n";

/// Why bytes are no document of a vault.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// Larger than [`MAX_SIZE`].
    #[error("it has {size} bytes, more than the 1,048,576 allowed")]
    TooLarge {
        /// Its size.
        size: u64,
    },
    /// Nested deeper than [`MAX_DEPTH`].
    #[error("it nests deeper than 32 levels")]
    TooDeep,
    /// No JSON, or JSON of another shape.
    #[error("it is not the JSON expected")]
    Json(#[source] serde_json::Error),
    /// A text with a character that must not reach a terminal.
    #[error("a text in it holds a control character")]
    ControlCharacter,
    /// Its last lines are not those of a sealed document.
    #[error("it does not end with its digest: cut short or changed")]
    NoDigest,
    /// The digest it carries is not its own.
    #[error("its bytes do not match the digest in it: SHA-256 is {actual}")]
    WrongDigest {
        /// The digest of the bytes as they are.
        actual: Sha256,
    },
}

/// The bytes of a sealed document that holds `body`, which must serialize to a
/// JSON object with at least one member and none called `sha256`.
pub fn seal<T: Serialize>(body: &T) -> Result<Vec<u8>, DocumentError> {
    let mut bytes = to_bytes(body)?;
    if !bytes.ends_with(b"\n}\n") {
        let shape = <serde_json::Error as serde::ser::Error>::custom("not an object with members");
        return Err(DocumentError::Json(shape));
    }
    bytes.truncate(bytes.len() - b"\n}\n".len());
    bytes.extend_from_slice(BEFORE);
    let at = bytes.len();
    bytes.extend_from_slice(ZEROS);
    bytes.extend_from_slice(AFTER);
    let digest = Sha256::of(&bytes).to_string();
    bytes[at..at + 64].copy_from_slice(digest.as_bytes());
    // What was just written must read back: a member of that name already there
    // would not.
    unseal(&bytes)?;
    Ok(bytes)
}

/// The JSON object of a sealed document, without its digest.
pub fn unseal(bytes: &[u8]) -> Result<Value, DocumentError> {
    check_size(bytes.len() as u64)?;
    let body = bytes.strip_suffix(AFTER).ok_or(DocumentError::NoDigest)?;
    let (body, digest) = body.split_last_chunk::<64>().ok_or(DocumentError::NoDigest)?;
    if !body.ends_with(BEFORE) {
        return Err(DocumentError::NoDigest);
    }
    let mut zeroed = bytes.to_vec();
    zeroed[body.len()..body.len() + 64].copy_from_slice(ZEROS);
    let actual = Sha256::of(&zeroed);
    if actual.to_string().as_bytes() != digest {
        return Err(DocumentError::WrongDigest { actual });
    }
    let mut value = parse(bytes)?;
    if let Value::Object(members) = &mut value {
        members.remove("sha256");
    }
    Ok(value)
}

/// JSON as a vault holds it: two spaces of indentation and a newline at the end.
pub fn to_bytes<T: Serialize>(body: &T) -> Result<Vec<u8>, DocumentError> {
    let mut bytes = serde_json::to_vec_pretty(body).map_err(DocumentError::Json)?;
    bytes.push(b'\n');
    check_size(bytes.len() as u64)?;
    Ok(bytes)
}

/// Parses bounded JSON of which every text is fit for a terminal, and no member
/// stands twice in an object.
pub fn parse(bytes: &[u8]) -> Result<Value, DocumentError> {
    check_size(bytes.len() as u64)?;
    check_depth(bytes)?;
    let Unique(value) = serde_json::from_slice(bytes).map_err(DocumentError::Json)?;
    check_texts(&value)?;
    Ok(value)
}

/// Refuses what is larger than a document may be, before it is read.
pub fn check_size(size: u64) -> Result<(), DocumentError> {
    if size > MAX_SIZE { Err(DocumentError::TooLarge { size }) } else { Ok(()) }
}

/// `text` with every character that a terminal could act on, or that could
/// reorder what is shown, replaced by its code point: `\u{1b}`.
pub fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if is_harmful(c) {
            shown.extend(c.escape_unicode());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// Control characters, line and paragraph separators, and what changes the
/// direction of writing.
pub(crate) fn is_harmful(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        || matches!(c, '\u{61c}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}')
}

fn check_depth(bytes: &[u8]) -> Result<(), DocumentError> {
    let (mut depth, mut in_text, mut escaped) = (0usize, false, false);
    for &byte in bytes {
        if in_text {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_text = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_text = true,
            b'{' | b'[' => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return Err(DocumentError::TooDeep);
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(())
}

// Recursion is bounded by `MAX_DEPTH`: values come from `parse`, or are about to
// be written and pass `parse` afterwards.
fn check_texts(value: &Value) -> Result<(), DocumentError> {
    let check = |text: &str| {
        if text.chars().any(is_harmful) { Err(DocumentError::ControlCharacter) } else { Ok(()) }
    };
    match value {
        Value::String(text) => check(text),
        Value::Array(items) => items.iter().try_for_each(check_texts),
        Value::Object(members) => members.iter().try_for_each(|(name, value)| {
            check(name)?;
            check_texts(value)
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) => Ok(()),
    }
}

/// A JSON value in which no object has a member twice: readers would differ on
/// which one counts.
struct Unique(Value);

impl<'de> serde::Deserialize<'de> for Unique {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Unique;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a JSON value")
            }

            fn visit_unit<E>(self) -> Result<Unique, E> {
                Ok(Unique(Value::Null))
            }

            fn visit_bool<E>(self, value: bool) -> Result<Unique, E> {
                Ok(Unique(value.into()))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Unique, E> {
                Ok(Unique(value.into()))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Unique, E> {
                Ok(Unique(value.into()))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Unique, E> {
                Ok(Unique(value.into()))
            }

            fn visit_str<E>(self, value: &str) -> Result<Unique, E> {
                Ok(Unique(value.into()))
            }

            fn visit_string<E>(self, value: String) -> Result<Unique, E> {
                Ok(Unique(value.into()))
            }

            fn visit_seq<A: serde::de::SeqAccess<'de>>(
                self,
                mut access: A,
            ) -> Result<Unique, A::Error> {
                let mut items = Vec::new();
                while let Some(Unique(item)) = access.next_element()? {
                    items.push(item);
                }
                Ok(Unique(Value::Array(items)))
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(
                self,
                mut access: A,
            ) -> Result<Unique, A::Error> {
                let mut members = serde_json::Map::new();
                while let Some((name, Unique(value))) = access.next_entry::<String, Unique>()? {
                    if members.insert(name, value).is_some() {
                        return Err(serde::de::Error::custom("a member stands twice"));
                    }
                }
                Ok(Unique(Value::Object(members)))
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn sealed_documents_read_back() {
        let body = json!({"b": [1, "x"], "a": {"n": u64::MAX}});
        let bytes = seal(&body).unwrap();
        assert_eq!(unseal(&bytes).unwrap(), body);
        let plain: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(plain["b"][1], "x");
    }

    #[test]
    fn every_flip_cut_and_addition_is_noticed() {
        let bytes = seal(&json!({"name": "value", "list": [1, 2, 3], "text": "aZ09"})).unwrap();
        for at in 0..bytes.len() {
            unseal(&bytes[..at]).expect_err("cut");
            for bit in 0..8 {
                let mut changed = bytes.clone();
                changed[at] ^= 1 << bit;
                unseal(&changed).expect_err("flipped");
            }
        }
        for extra in [&b"\n"[..], b" ", b"{}"] {
            unseal(&[&bytes, extra].concat()).expect_err("longer");
        }
    }

    #[test]
    fn hostile_json_is_refused() {
        let deep = format!("{}{}", "[".repeat(33), "]".repeat(33));
        assert!(matches!(parse(deep.as_bytes()), Err(DocumentError::TooDeep)));
        let very_deep = "[".repeat(500_000);
        assert!(matches!(parse(very_deep.as_bytes()), Err(DocumentError::TooDeep)));
        let fine = format!("{}\"[[[\\\"[[\"{}", "[".repeat(32), "]".repeat(32));
        parse(fine.as_bytes()).unwrap();
        let huge = vec![b' '; MAX_SIZE as usize + 1];
        assert!(matches!(parse(&huge), Err(DocumentError::TooLarge { .. })));
        for text in ["\\u001b[2J", "\\u202e", "\\u0000", "\\u0085", "a\\nb", "\\u2028"] {
            for json in [format!("{{\"a\": \"{text}\"}}"), format!("[{{\"{text}\": 1}}]")] {
                assert!(matches!(parse(json.as_bytes()), Err(DocumentError::ControlCharacter)));
            }
        }
        for json in ["{\"a\":1,\"a\":1}", "{\"x\":{\"a\":1,\"b\":2,\"a\":3}}", "{} {}", "1e999", ""]
        {
            assert!(matches!(parse(json.as_bytes()), Err(DocumentError::Json(_))), "{json}");
        }
        assert_eq!(printable("a\u{1b}[2J\u{202e}é"), "a\\u{1b}[2J\\u{202e}é");
    }

    #[test]
    fn what_cannot_be_sealed_is_refused() {
        for body in
            [json!([]), json!({}), json!("x"), json!({"sha256": "x"}), json!({"a": "\u{1b}"})]
        {
            seal(&body).expect_err("not sealable");
        }
    }
}
