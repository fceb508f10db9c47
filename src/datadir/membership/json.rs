//! The few JSON shapes that etcd stores, with the escaping of Go's encoder.

use std::collections::BTreeMap;
use std::fmt::Write;

/// Appends `text` as Go's `encoding/json` does: `<`, `>`, `&`, U+2028 and
/// U+2029 are escaped as well, so that the JSON can stand in HTML.
pub(super) fn string(out: &mut String, text: &str) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\0'..='\x1f' => {
                // Writing to a String cannot fail.
                let _ = write!(out, "\\u{:04x}", u32::from(character));
            }
            _ => out.push(character),
        }
    }
    out.push('"');
}

/// Appends a list of strings.
pub(super) fn strings(out: &mut String, texts: &[String]) {
    out.push('[');
    for (index, text) in texts.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        string(out, text);
    }
    out.push(']');
}

/// A directory of the v2 store.
pub(super) struct Directory {
    path: String,
    children: BTreeMap<String, Node>,
}

enum Node {
    Directory(Directory),
    Value { path: String, value: String, index: u64 },
}

impl Directory {
    pub(super) fn new(path: &str) -> Self {
        Self { path: path.into(), children: BTreeMap::new() }
    }

    /// Adds a directory; `path` is its full path.
    pub(super) fn directory(&mut self, path: &str) -> &mut Directory {
        let name = last(path);
        let new = || Node::Directory(Directory::new(path));
        let node = self.children.entry(name.into()).or_insert_with(new);
        if !matches!(node, Node::Directory(_)) {
            *node = new();
        }
        match node {
            Node::Directory(directory) => directory,
            Node::Value { .. } => unreachable!("it was just made a directory"),
        }
    }

    /// Adds a value that the `index`-th change of the store made.
    pub(super) fn value(&mut self, path: &str, value: &str, index: u64) {
        let node = Node::Value { path: path.into(), value: value.into(), index };
        self.children.insert(last(path).into(), node);
    }

    pub(super) fn write(&self, out: &mut String) {
        head(out, &self.path, self.index(), "");
        out.push('{');
        for (number, (name, node)) in self.children.iter().enumerate() {
            if number > 0 {
                out.push(',');
            }
            string(out, name);
            out.push(':');
            match node {
                Node::Directory(directory) => directory.write(out),
                Node::Value { path, value, index } => {
                    head(out, path, *index, value);
                    out.push_str("null}");
                }
            }
        }
        out.push_str("}}");
    }

    /// The first change below the directory made it.
    fn index(&self) -> u64 {
        let of = |node: &Node| match node {
            Node::Value { index, .. } => *index,
            Node::Directory(directory) => directory.index(),
        };
        // The root and its two directories are there from the start.
        if self.path.matches('/').count() < 2 {
            0
        } else {
            self.children.values().map(of).min().unwrap_or(0)
        }
    }
}

fn last(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Everything of a node up to its children.
fn head(out: &mut String, path: &str, index: u64, value: &str) {
    out.push_str("{\"Path\":");
    string(out, path);
    // Writing to a String cannot fail.
    let _ = write!(
        out,
        ",\"CreatedIndex\":{index},\"ModifiedIndex\":{index},\
         \"ExpireTime\":\"0001-01-01T00:00:00Z\",\"Value\":"
    );
    string(out, value);
    out.push_str(",\"Children\":");
}
