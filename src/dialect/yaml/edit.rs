//! Edits of single lines. Each is read back and compared as a tree: where anything but
//! the demanded node differs, it is refused.

use std::ops::Range;

use super::super::text::{
    EditError, insert_line, line_end, line_ending, line_start, remove_lines, splice,
};
use super::{Kind, Layout, Node, Step, Style, Yaml, show};

impl Yaml {
    /// The text with another scalar at the end of a way. `quote` asks for a
    /// string whatever it looks like; else `true` and `5` stay what they are.
    ///
    /// # Errors
    /// It is not there, not a scalar on one line, or behind an anchor.
    pub fn set(
        &self,
        document: usize,
        path: &[Step],
        value: &str,
        quote: bool,
    ) -> Result<String, EditError> {
        let node = self.find(document, path)?;
        let refused = |reason: &str| EditError::refused(show(path), reason);
        let Kind::Scalar(_, style) = &node.kind else { return Err(refused("it is no scalar")) };
        if matches!(style, Style::Literal | Style::Folded) {
            return Err(refused("it is a block of text"));
        }
        if self.text[node.span.clone()].contains('\n') {
            return Err(refused("it goes over several lines"));
        }
        let expected = Kind::Scalar(value.to_owned(), Style::Plain);
        self.either(*style, |style| {
            let mut written =
                scalar(value, style, quote).ok_or_else(|| refused("a control character"))?;
            if node.span.is_empty() && !self.text[..node.span.start].ends_with([' ', '\n']) {
                written.insert(0, ' ');
            }
            let new = splice(&self.text, node.span.clone(), &written);
            self.checked(new, document, path, |tree| {
                change(tree, path, |slot| slot.kind = expected.clone())
            })
        })
    }

    /// The text without an entry or an item, and the comment behind it on its
    /// line.
    ///
    /// # Errors
    /// It is not there, it is the only one, or it shares its line.
    pub fn remove(&self, document: usize, path: &[Step]) -> Result<String, EditError> {
        let refused = |reason: &str| EditError::refused(show(path), reason);
        let node = self.find(document, path)?;
        let Some((last, parents)) = path.split_last() else { return Err(refused("it is all")) };
        let parent = self.find(document, parents)?;
        let (spans, position, layout) =
            members(parent, last).ok_or_else(|| refused("no member"))?;
        if spans.len() == 1 {
            return Err(refused("nothing would be left beside it"));
        }
        let own = spans[position].clone();
        let new = match layout {
            Layout::Flow => match spans.get(position + 1) {
                Some(next) => splice(&self.text, own.start..next.start, ""),
                None => splice(&self.text, spans[position - 1].end..own.end, ""),
            },
            Layout::Block => {
                let start = line_start(&self.text, own.start);
                let lead = self.text[start..own.start].trim_start_matches(' ');
                let lead = if matches!(parent.kind, Kind::Sequence(..)) {
                    lead.strip_prefix('-').unwrap_or("?").trim_start_matches(' ')
                } else {
                    lead
                };
                if !lead.is_empty() {
                    return Err(refused("it shares its line with something else"));
                }
                let end = node.end().max(own.end);
                // A block of text ends behind its last line.
                let end = if end > own.start && self.text[..end].ends_with('\n') {
                    end
                } else {
                    line_end(&self.text, end)
                };
                remove_lines(&self.text, start..end)
            }
        };
        self.checked(new, document, path, |tree| {
            change(tree, parents, |slot| match (&mut slot.kind, last) {
                (Kind::Sequence(items, _), Step::Item(item)) => drop(items.remove(*item)),
                (Kind::Mapping(entries, _), Step::Key(key)) => {
                    entries.retain(|(name, _)| name.text() != Some(key));
                }
                _ => {}
            })
        })
    }

    /// The text with a new entry at the end of a mapping.
    ///
    /// # Errors
    /// The key is there; the mapping is not, is empty, or behind an anchor.
    pub fn add_entry(
        &self,
        document: usize,
        path: &[Step],
        key: &str,
        value: &str,
        quote: bool,
    ) -> Result<String, EditError> {
        let mut name = path.to_vec();
        name.push(Step::from(key));
        let refused = |reason: &str| EditError::refused(show(&name), reason);
        let parent = self.find(document, path)?;
        if parent.get(key).is_some() {
            return Err(EditError::Present(show(&name)));
        }
        let Kind::Mapping(entries, layout) = &parent.kind else {
            return Err(refused("no mapping"));
        };
        let Some((first, last)) = entries.first().zip(entries.last()) else {
            return Err(refused("the mapping is empty"));
        };
        let wrong = || refused("a control character");
        let key_text = scalar(key, Style::Plain, true).ok_or_else(wrong)?;
        let style = match last.1.kind {
            Kind::Scalar(_, style @ (Style::Single | Style::Double)) => style,
            _ => Style::Plain,
        };
        let written = format!("{key_text}: {}", scalar(value, style, quote).ok_or_else(wrong)?);
        let new = match layout {
            Layout::Flow => {
                let end = last.1.end();
                splice(&self.text, end..end, &format!(", {written}"))
            }
            Layout::Block => {
                let at = self.behind(last.0.end().max(last.1.end()));
                let indent = self.column(first.0.span.start);
                insert_line(&self.text, at, &format!("{indent}{written}"))
            }
        };
        let entry = (
            string(key),
            Node { kind: Kind::Scalar(value.to_owned(), Style::Plain), ..string("") },
        );
        self.checked(new, document, &name, |tree| {
            change(tree, path, |slot| {
                if let Kind::Mapping(entries, _) = &mut slot.kind {
                    entries.push(entry.clone());
                }
            })
        })
    }

    /// The text with a new string in a list, in front of item `position` or at
    /// its end.
    ///
    /// # Errors
    /// The list is not there, is empty, or behind an anchor.
    pub fn add_item(
        &self,
        document: usize,
        path: &[Step],
        position: usize,
        value: &str,
    ) -> Result<String, EditError> {
        let refused = |reason: &str| EditError::refused(show(path), reason);
        let parent = self.find(document, path)?;
        let Kind::Sequence(items, layout) = &parent.kind else { return Err(refused("no list")) };
        let position = position.min(items.len());
        // The item behind which the new one stands, or the first one.
        let Some(near) = items.get(position.saturating_sub(1)) else {
            return Err(refused("the list is empty"));
        };
        let style = match near.kind {
            Kind::Scalar(_, style @ (Style::Single | Style::Double)) => style,
            _ => Style::Plain,
        };
        self.either(style, |style| {
            let written =
                scalar(value, style, true).ok_or_else(|| refused("a control character"))?;
            let new = match (layout, position) {
                (Layout::Flow, 0) => {
                    splice(&self.text, near.span.start..near.span.start, &format!("{written}, "))
                }
                (Layout::Flow, _) => {
                    splice(&self.text, near.span.end..near.span.end, &format!(", {written}"))
                }
                (Layout::Block, _) => {
                    let start = line_start(&self.text, near.span.start);
                    let lead = &self.text[start..near.span.start];
                    if lead.trim_matches(' ') != "-" {
                        return Err(refused("an item shares its line with something else"));
                    }
                    let at = if position == 0 { start } else { self.behind(near.end()) };
                    insert_line(&self.text, at, &format!("{lead}{written}"))
                }
            };
            let item = string(value);
            self.checked(new, document, path, |tree| {
                change(tree, path, |slot| {
                    if let Kind::Sequence(items, _) = &mut slot.kind {
                        items.insert(position, item.clone());
                    }
                })
            })
        })
    }

    /// The text with the lines of an entry's value replaced by other YAML,
    /// written at column 0.
    ///
    /// # Errors
    /// It is not there, or would not read back.
    pub fn replace_entry(
        &self,
        document: usize,
        path: &[Step],
        value: &str,
    ) -> Result<String, EditError> {
        let refused = |reason: &str| EditError::refused(show(path), reason);
        let node = self.find(document, path)?;
        let Some((last @ Step::Key(key), parents)) = path.split_last() else {
            return Err(refused("it is no entry"));
        };
        let parent = self.find(document, parents)?;
        let (spans, position, layout) =
            members(parent, last).ok_or_else(|| refused("no member"))?;
        let own = spans[position].clone();
        let start = line_start(&self.text, own.start);
        let indent = self.text[start..own.start].to_owned();
        if layout != Layout::Block || !indent.trim().is_empty() {
            return Err(refused("it shares its line with something else"));
        }
        let part = Yaml::parse(value)?;
        let [new] = part.documents.as_slice() else { return Err(refused("not one value")) };
        let mut lines = vec![format!("{indent}{key}:")];
        for line in value.lines() {
            lines.push(if line.is_empty() { String::new() } else { format!("{indent}  {line}") });
        }
        let ending = line_ending(&self.text);
        let end = self.behind(node.end().max(own.end));
        let tail = if self.text[..end].ends_with('\n') { ending } else { "" };
        let text = splice(&self.text, start..end, &format!("{}{tail}", lines.join(ending)));
        self.checked(text, document, path, |tree| {
            change(tree, path, |slot| *slot = new.clone());
        })
    }

    /// The text with the content of a literal block (`|`) replaced.
    ///
    /// # Errors
    /// It is not there or not such a block.
    pub fn set_block(
        &self,
        document: usize,
        path: &[Step],
        content: &str,
    ) -> Result<String, EditError> {
        let refused = |reason: &str| EditError::refused(show(path), reason);
        let node = self.find(document, path)?;
        let Kind::Scalar(old, Style::Literal) = &node.kind else {
            return Err(refused("it is not a literal block"));
        };
        let first = old.lines().find(|line| !line.trim().is_empty());
        let first = first.ok_or_else(|| refused("the block is empty"))?;
        let Some((last @ Step::Key(_), parents)) = path.split_last() else {
            return Err(refused("it is no entry"));
        };
        let parent = self.find(document, parents)?;
        let (spans, position, _) = members(parent, last).ok_or_else(|| refused("no member"))?;
        // The block starts on the line behind its key and ends with its last
        // indented line.
        let head = line_end(&self.text, spans[position].start);
        let mut lines = Vec::new();
        let mut at = head;
        for line in self.text[head..].split_inclusive('\n') {
            lines.push((at, at + line.len(), line.trim_end_matches(['\n', '\r'])));
            at += line.len();
        }
        let found = lines.iter().find(|(.., line)| !line.trim().is_empty());
        let indent = found.and_then(|(.., line)| line.strip_suffix(first)).map(str::len);
        let indent = indent.ok_or_else(|| refused("its indentation is not clear"))?;
        let inside = |line: &str| line.len() - line.trim_start_matches(' ').len() >= indent;
        let block = lines.iter().take_while(|(.., line)| line.trim().is_empty() || inside(line));
        let last = block.filter(|(.., line)| !line.trim().is_empty()).last();
        let body = head..last.map_or(head, |(_, end, _)| *end);
        let ending = line_ending(&self.text);
        let mut block = String::new();
        for line in content.lines() {
            if !line.is_empty() {
                block.push_str(&" ".repeat(indent));
            }
            block.push_str(line);
            block.push_str(ending);
        }
        let kept = content.to_owned();
        self.checked(splice(&self.text, body, &block), document, path, |tree| {
            change(tree, path, |slot| slot.kind = Kind::Scalar(kept.clone(), Style::Literal))
        })
    }

    /// The start of the line behind the content that ends at a byte.
    fn behind(&self, end: usize) -> usize {
        if end > 0 && self.text[..end].ends_with('\n') { end } else { line_end(&self.text, end) }
    }

    /// As many spaces as stand in front of a byte on its line.
    fn column(&self, at: usize) -> String {
        let start = line_start(&self.text, at);
        " ".repeat(self.text[start..at].chars().count())
    }

    /// An edit with a plain scalar, or where that is not read as one, a quoted.
    fn either(
        &self,
        style: Style,
        edit: impl Fn(Style) -> Result<String, EditError>,
    ) -> Result<String, EditError> {
        let first = edit(style);
        match (&first, style) {
            (Err(EditError::Unsafe { .. }), Style::Plain) => edit(Style::Double).or(first),
            _ => first,
        }
    }

    fn checked(
        &self,
        new: String,
        document: usize,
        path: &[Step],
        demanded: impl FnOnce(&mut Node),
    ) -> Result<String, EditError> {
        let refused = |reason: String| EditError::refused(show(path), reason);
        let read = Self::parse(&new)
            .map_err(|error| refused(format!("it would not read back: {error}")))?;
        let mut expected = self.documents.clone();
        if let Some(tree) = expected.get_mut(document) {
            demanded(tree);
        }
        let same = read.documents.len() == expected.len()
            && read.documents.iter().zip(&expected).all(|(a, b)| a.like(b));
        if same { Ok(new) } else { Err(refused("it would not read back as demanded".to_owned())) }
    }
}

impl Node {
    /// As [`same`](Self::same), but a new scalar may be quoted either way.
    fn like(&self, other: &Self) -> bool {
        match (&self.kind, &other.kind) {
            (Kind::Scalar(a, _), Kind::Scalar(b, _)) => a == b,
            (Kind::Sequence(a, _), Kind::Sequence(b, _)) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.like(b))
            }
            (Kind::Mapping(a, _), Kind::Mapping(b, _)) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.0.like(&b.0) && a.1.like(&b.1))
            }
            _ => self.same(other),
        }
    }
}

fn string(text: &str) -> Node {
    Node { kind: Kind::Scalar(text.to_owned(), Style::Double), span: 0..0, decorated: false }
}

fn change(tree: &mut Node, path: &[Step], with: impl FnOnce(&mut Node)) {
    let mut node = tree;
    for step in path {
        let next = match (&mut node.kind, step) {
            (Kind::Sequence(items, _), Step::Item(item)) => items.get_mut(*item),
            (Kind::Mapping(entries, _), Step::Key(key)) => entries
                .iter_mut()
                .rev()
                .find(|(name, _)| name.text() == Some(key))
                .map(|(_, value)| value),
            _ => None,
        };
        match next {
            Some(next) => node = next,
            None => return,
        }
    }
    with(node);
}

/// The spans of a collection's members, and which one a step means.
fn members(parent: &Node, step: &Step) -> Option<(Vec<Range<usize>>, usize, Layout)> {
    match (&parent.kind, step) {
        (Kind::Sequence(items, layout), Step::Item(item)) if *item < items.len() => {
            let spans = items.iter().map(|node| node.span.start..node.end());
            Some((spans.collect(), *item, *layout))
        }
        (Kind::Mapping(entries, layout), Step::Key(key)) => {
            let position = entries.iter().rposition(|(name, _)| name.text() == Some(key))?;
            let spans =
                entries.iter().map(|(name, value)| name.span.start..name.end().max(value.end()));
            Some((spans.collect(), position, *layout))
        }
        _ => None,
    }
}

/// Whether a plain scalar would be taken for something else than a string, by
/// YAML 1.1 (which etcd and kubelet read) or 1.2.
fn is_typed(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    let word = matches!(
        lower.as_str(),
        "" | "~"
            | "null"
            | "true"
            | "false"
            | "yes"
            | "no"
            | "on"
            | "off"
            | "y"
            | "n"
            | ".inf"
            | "-.inf"
            | "+.inf"
            | ".nan"
            | "<<"
            | "="
    );
    let number = text.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c))
        && text.chars().all(|c| c.is_ascii_hexdigit() || "+-._:xoTZ".contains(c));
    word || number
}

/// A scalar as it is written on one line; none if it has control characters.
fn scalar(value: &str, style: Style, quote: bool) -> Option<String> {
    if value.chars().any(|c| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}')) {
        return None;
    }
    let safe = |c: char| c.is_ascii_alphanumeric() || "_-./:,=@%+[]{}~ ()$".contains(c);
    // Commas and brackets are plain outside of brackets; inside, reading back
    // shows it, and the value is quoted.
    let plain = value.chars().all(safe)
        && (value.starts_with(|c: char| c.is_ascii_alphanumeric() || "/_.".contains(c))
            || (value.starts_with("--") && !value.starts_with("---")))
        && !value.contains(": ")
        && !value.ends_with([':', ' ']);
    Some(match style {
        Style::Double => double(value),
        Style::Single => format!("'{}'", value.replace('\'', "''")),
        _ if plain && !(quote && is_typed(value)) => value.to_owned(),
        _ => double(value),
    })
}

fn double(value: &str) -> String {
    format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))
}
