//! YAML as a tree with byte spans, and edits of single lines of it.
//!
//! The tree comes from `saphyr-parser`; this module keeps where each node
//! stands, and `edit` changes the text only there. Anchors, aliases and merge
//! keys are read but never edited.

use std::fmt;
use std::ops::Range;

use saphyr_parser::{Event, Parser, ScalarStyle};

use super::text::{EditError, MAX_TEXT, ParseError, line_number};

mod edit;

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
}

fn is_null(text: &str) -> bool {
    matches!(text, "" | "~" | "null" | "Null" | "NULL")
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
