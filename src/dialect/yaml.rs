//! YAML as a tree with byte spans, and edits of single lines of it.
//!
//! The tree comes from `saphyr-parser`; this module keeps where each node
//! stands, and changes the text only there. Every edit is read back and
//! compared as a tree: where anything but the demanded node differs, it is
//! refused. Anchors, aliases and merge keys are read but never edited.

use std::fmt;
use std::ops::Range;

use saphyr_parser::{Event, Parser, ScalarStyle};

use super::text::{
    EditError, MAX_TEXT, ParseError, insert_line, line_end, line_number, line_start, remove_lines,
    splice,
};

/// How deep collections may be nested; real files have about ten levels.
const MAX_DEPTH: usize = 64;

/// A node of a document.
#[derive(Debug, Clone)]
pub struct Node {
    /// What it holds.
    pub kind: Kind,
    /// Its bytes. Of a block collection only the start is meant to be used.
    pub span: Range<usize>,
    /// Whether it has an anchor or a tag of its own.
    pub decorated: bool,
}

/// What a node holds.
#[derive(Debug, Clone)]
pub enum Kind {
    /// A scalar; the value as text, whatever its type.
    Scalar(String, Style),
    /// A list.
    Sequence(Vec<Node>, Layout),
    /// Keys with their values, in order.
    Mapping(Vec<(Node, Node)>, Layout),
    /// A reference to an anchor.
    Alias,
}

/// How a scalar is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Without quotes.
    Plain,
    /// `'…'`
    Single,
    /// `"…"`
    Double,
    /// `|`
    Literal,
    /// `>`
    Folded,
}

/// How a collection is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// By indentation.
    Block,
    /// In brackets.
    Flow,
}

/// One step into a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The value of a key.
    Key(String),
    /// An item of a list.
    Item(usize),
}

impl From<&str> for Step {
    fn from(key: &str) -> Self {
        Self::Key(key.to_owned())
    }
}

impl From<usize> for Step {
    fn from(item: usize) -> Self {
        Self::Item(item)
    }
}

/// A way through a tree as messages show it.
fn show(path: &[Step]) -> String {
    let mut text = String::new();
    for step in path {
        match step {
            Step::Key(key) if text.is_empty() => text.push_str(key),
            Step::Key(key) => text.push_str(&format!(".{key}")),
            Step::Item(item) => text.push_str(&format!("[{item}]")),
        }
    }
    text
}

impl Node {
    /// The value of a scalar.
    pub fn text(&self) -> Option<&str> {
        match &self.kind {
            Kind::Scalar(text, _) => Some(text),
            _ => None,
        }
    }

    /// The value of a scalar that is not null.
    pub fn value(&self) -> Option<&str> {
        match &self.kind {
            Kind::Scalar(text, Style::Plain) if is_null(text) => None,
            Kind::Scalar(text, _) => Some(text),
            _ => None,
        }
    }

    /// The items of a list; none of anything else.
    pub fn items(&self) -> &[Node] {
        match &self.kind {
            Kind::Sequence(items, _) => items,
            _ => &[],
        }
    }

    /// The entries of a mapping; none of anything else.
    pub fn entries(&self) -> &[(Node, Node)] {
        match &self.kind {
            Kind::Mapping(entries, _) => entries,
            _ => &[],
        }
    }

    /// The value of a key; of a repeated key the last one.
    pub fn get(&self, key: &str) -> Option<&Node> {
        let mut entries = self.entries().iter().rev();
        entries.find(|(name, _)| name.text() == Some(key)).map(|(_, value)| value)
    }

    /// The value behind several keys.
    pub fn at(&self, keys: &[&str]) -> Option<&Node> {
        keys.iter().try_fold(self, |node, key| node.get(key))
    }

    fn step(&self, step: &Step) -> Option<&Node> {
        match step {
            Step::Key(key) => self.get(key),
            Step::Item(item) => self.items().get(*item),
        }
    }

    /// The last byte of content in it.
    fn end(&self) -> usize {
        match &self.kind {
            Kind::Sequence(items, Layout::Block) => {
                items.iter().map(Node::end).max().unwrap_or(self.span.start)
            }
            Kind::Mapping(entries, Layout::Block) => entries
                .iter()
                .map(|(key, value)| key.end().max(value.end()))
                .max()
                .unwrap_or(self.span.start),
            _ => self.span.end,
        }
    }

    /// Same values, wherever they stand and however they are quoted.
    fn same(&self, other: &Self) -> bool {
        match (&self.kind, &other.kind) {
            (Kind::Scalar(a, x), Kind::Scalar(b, y)) => {
                a == b && (*x == Style::Plain) == (*y == Style::Plain)
            }
            (Kind::Sequence(a, _), Kind::Sequence(b, _)) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.same(b))
            }
            (Kind::Mapping(a, _), Kind::Mapping(b, _)) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.0.same(&b.0) && a.1.same(&b.1))
            }
            (Kind::Alias, Kind::Alias) => true,
            _ => false,
        }
    }
}

/// A text of one or several YAML documents.
#[derive(Debug, Clone)]
pub struct Yaml {
    text: String,
    documents: Vec<Node>,
}

impl Yaml {
    /// Reads a text.
    ///
    /// # Errors
    /// It is no YAML, larger than 4 MiB, or nested deeper than 64 levels.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        if text.len() > MAX_TEXT {
            return Err(ParseError::at(text, 0, "the file is larger than 4 MiB"));
        }
        let mut builder = Builder::new(text);
        for event in Parser::new_from_str(text) {
            let (event, span) = event.map_err(|error| ParseError {
                line: error.marker().line().max(1),
                problem: error.info().to_owned(),
            })?;
            builder.event(event, span);
            if let Some(problem) = builder.problem {
                return Err(problem);
            }
        }
        Ok(Self { text: text.to_owned(), documents: builder.documents })
    }

    /// The text, byte for byte.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The documents in order.
    pub fn documents(&self) -> &[Node] {
        &self.documents
    }

    /// The line of a node, from 1.
    pub fn line(&self, node: &Node) -> usize {
        line_number(&self.text, node.span.start)
    }

    /// The node at the end of a way, and whether the way is free of anchors,
    /// aliases, merge keys and repeated keys.
    fn find(&self, document: usize, path: &[Step]) -> Result<&Node, EditError> {
        let name = || show(path);
        let absent = || EditError::Absent(name());
        let mut node = self.documents.get(document).ok_or_else(absent)?;
        for step in path {
            self.guard(node, path)?;
            if let Step::Key(key) = step {
                let same = node.entries().iter().filter(|(found, _)| found.text() == Some(key));
                if same.count() > 1 {
                    return Err(EditError::refused(name(), format!("{key} stands there twice")));
                }
            }
            node = node.step(step).ok_or_else(absent)?;
        }
        self.guard(node, path)?;
        Ok(node)
    }

    fn guard(&self, node: &Node, path: &[Step]) -> Result<(), EditError> {
        let line = line_number(&self.text, node.span.start);
        let reason = if node.decorated {
            format!("an anchor or a tag in line {line}")
        } else if matches!(node.kind, Kind::Alias) {
            format!("an alias in line {line}")
        } else if node.get("<<").is_some() {
            format!("a merge key in line {line}")
        } else {
            return Ok(());
        };
        Err(EditError::refused(show(path), reason))
    }

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
        let ending = super::text::line_ending(&self.text);
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
        let ending = super::text::line_ending(&self.text);
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

fn is_null(text: &str) -> bool {
    matches!(text, "" | "~" | "null" | "Null" | "NULL")
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

/// The length of a quoted scalar, quotes included.
fn closing(text: &str, style: Style) -> Option<usize> {
    let mut characters = text.char_indices().skip(1).peekable();
    while let Some((at, c)) = characters.next() {
        match (style, c) {
            (Style::Double, '\\') => drop(characters.next()),
            (Style::Double, '"') => return Some(at + 1),
            (Style::Single, '\'') => {
                if characters.next_if(|(_, next)| *next == '\'').is_none() {
                    return Some(at + 1);
                }
            }
            (Style::Single | Style::Double, _) => {}
            _ => return None,
        }
    }
    None
}

/// Builds the trees from events, without recursion.
struct Builder<'t> {
    text: &'t str,
    /// The byte of every character, while they differ.
    bytes: Option<Vec<u32>>,
    stack: Vec<Node>,
    documents: Vec<Node>,
    problem: Option<ParseError>,
}

impl<'t> Builder<'t> {
    fn new(text: &'t str) -> Self {
        let bytes = (!text.is_ascii()).then(|| {
            let starts = text.char_indices().map(|(at, _)| at as u32);
            starts.chain([text.len() as u32]).collect()
        });
        Self { text, bytes, stack: Vec::new(), documents: Vec::new(), problem: None }
    }

    fn byte(&self, index: usize) -> usize {
        match &self.bytes {
            Some(bytes) => bytes.get(index).map_or(self.text.len(), |&at| at as usize),
            None => index.min(self.text.len()),
        }
    }

    fn open(&mut self, kind: Kind, start: usize, decorated: bool) {
        if self.stack.len() >= MAX_DEPTH && self.problem.is_none() {
            self.problem = Some(ParseError::at(self.text, start, "nested deeper than 64 levels"));
        }
        if self.problem.is_none() {
            self.stack.push(Node { kind, span: start..start, decorated });
        }
    }

    fn close(&mut self, end: usize) {
        if self.problem.is_none()
            && let Some(mut node) = self.stack.pop()
        {
            node.span.end = end.max(node.span.start);
            self.put(node);
        }
    }

    fn put(&mut self, node: Node) {
        if self.problem.is_some() {
            return;
        }
        match self.stack.last_mut().map(|parent| &mut parent.kind) {
            None => self.documents.push(node),
            Some(Kind::Sequence(items, _)) => items.push(node),
            Some(Kind::Mapping(entries, _)) => match entries.last_mut() {
                // A key waits for its value as an entry of itself and a hole.
                Some((_, value)) if value.span.start == usize::MAX => *value = node,
                _ => {
                    let hole =
                        Node { kind: Kind::Alias, span: usize::MAX..usize::MAX, decorated: false };
                    entries.push((node, hole));
                }
            },
            Some(_) => {}
        }
    }
}

impl Builder<'_> {
    fn event(&mut self, event: Event<'_>, span: saphyr_parser::Span) {
        let (start, end) = (self.byte(span.start.index()), self.byte(span.end.index()));
        let bracket = |open| {
            if self.text[start..].starts_with(open) { Layout::Flow } else { Layout::Block }
        };
        match event {
            Event::Scalar(value, style, anchor, tag) => {
                let style = match style {
                    ScalarStyle::Plain => Style::Plain,
                    ScalarStyle::SingleQuoted => Style::Single,
                    ScalarStyle::DoubleQuoted => Style::Double,
                    ScalarStyle::Literal => Style::Literal,
                    ScalarStyle::Folded => Style::Folded,
                };
                let decorated = anchor != 0 || tag.is_some();
                // The parser's end of a quoted one lies behind what follows it.
                let end = closing(&self.text[start..], style).map_or(end, |length| start + length);
                self.put(Node {
                    kind: Kind::Scalar(value.into_owned(), style),
                    span: start..end.max(start),
                    decorated,
                });
            }
            Event::SequenceStart(anchor, tag) => {
                let kind = Kind::Sequence(Vec::new(), bracket('['));
                self.open(kind, start, anchor != 0 || tag.is_some());
            }
            Event::MappingStart(anchor, tag) => {
                let kind = Kind::Mapping(Vec::new(), bracket('{'));
                self.open(kind, start, anchor != 0 || tag.is_some());
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(end),
            Event::Alias(_) => {
                self.put(Node { kind: Kind::Alias, span: start..end.max(start), decorated: true });
            }
            _ => {}
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&show(std::slice::from_ref(self)))
    }
}
