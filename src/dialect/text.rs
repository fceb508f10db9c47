//! What all dialects share: lines, byte spans, and edits that are checked.

use std::ops::Range;

use serde::{Deserialize, Serialize};

/// The largest text that is read; what configures a member is far smaller.
pub(crate) const MAX_TEXT: usize = 4 << 20;

/// A file that is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct ParseError {
    /// The line where reading ended, from 1.
    pub line: usize,
    /// What is wrong there.
    pub problem: String,
}

impl ParseError {
    pub(crate) fn at(text: &str, offset: usize, problem: impl Into<String>) -> Self {
        Self { line: line_number(text, offset), problem: problem.into() }
    }
}

/// Why an edit is not made. The text stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    /// The setting that should change is not in the file.
    #[error("{0} is not set here")]
    Absent(String),
    /// The setting that should be added is in the file already.
    #[error("{0} is set here already")]
    Present(String),
    /// The edit could change more than it should.
    #[error("{name} cannot be edited safely: {reason}")]
    Unsafe {
        /// The setting.
        name: String,
        /// What stands in the way.
        reason: String,
    },
    /// The file cannot be read.
    #[error("the file cannot be edited")]
    Unreadable(#[from] ParseError),
}

impl EditError {
    pub(crate) fn refused(name: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Unsafe { name: name.into(), reason: reason.into() }
    }
}

/// How a setting reaches the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// An argument of the command.
    Flag,
    /// A variable of the environment.
    Environment,
    /// A key of the YAML file.
    Yaml,
}

impl std::fmt::Display for Form {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Flag => "flag",
            Self::Environment => "environment",
            Self::Yaml => "yaml",
        })
    }
}

/// Where a value stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The file as the reader named it; none for a running process.
    pub file: Option<String>,
    /// The bytes of the value in that file, quotes and escapes included where
    /// they stand inside it.
    pub span: Range<usize>,
    /// The line where the value starts, from 1; 0 for a running process.
    pub line: usize,
    /// How it reaches the program.
    pub form: Form,
    /// Whether the value is put together from several places (variables,
    /// specifiers), so that no one span holds it.
    pub composed: bool,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.file {
            Some(file) => write!(f, "{file}:{}", self.line),
            None => write!(f, "the running process ({})", self.form),
        }
    }
}

/// The number of the line that holds a byte, from 1.
pub(crate) fn line_number(text: &str, offset: usize) -> usize {
    let offset = offset.min(text.len());
    1 + text.as_bytes()[..offset].iter().filter(|&&byte| byte == b'\n').count()
}

/// The start of the line that holds a byte.
pub(crate) fn line_start(text: &str, offset: usize) -> usize {
    let offset = offset.min(text.len());
    text.as_bytes()[..offset].iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1)
}

/// The end of the line that holds a byte, its line feed included.
pub(crate) fn line_end(text: &str, offset: usize) -> usize {
    let offset = offset.min(text.len());
    let rest = &text.as_bytes()[offset..];
    rest.iter().position(|&byte| byte == b'\n').map_or(text.len(), |at| offset + at + 1)
}

/// How the lines of this text end.
pub(crate) fn line_ending(text: &str) -> &'static str {
    match text.find('\n') {
        Some(at) if text[..at].ends_with('\r') => "\r\n",
        _ => "\n",
    }
}

/// The text with one span replaced.
pub(crate) fn splice(text: &str, span: Range<usize>, with: &str) -> String {
    let mut new = String::with_capacity(text.len() + with.len());
    new.push_str(&text[..span.start]);
    new.push_str(with);
    new.push_str(&text[span.end..]);
    new
}

/// The text with a whole line put in at a line's start or at the end. A text
/// without a final line feed stays one.
pub(crate) fn insert_line(text: &str, at: usize, line: &str) -> String {
    let ending = line_ending(text);
    if at == text.len() && !text.is_empty() && !text.ends_with('\n') {
        splice(text, at..at, &format!("{ending}{line}"))
    } else {
        splice(text, at..at, &format!("{line}{ending}"))
    }
}

/// The text without whole lines; without its last line it ends as it did.
pub(crate) fn remove_lines(text: &str, span: Range<usize>) -> String {
    let start = if span.end == text.len() && !text.ends_with('\n') {
        let before = &text[..span.start];
        let before = before.strip_suffix('\n').unwrap_or(before);
        before.strip_suffix('\r').unwrap_or(before).len()
    } else {
        span.start
    };
    splice(text, start..span.end, "")
}

/// A value and, for each of its bytes, where in which file it stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Traced {
    pub(crate) text: String,
    from: Vec<Place>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    file: u32,
    offset: u32,
}

/// The file of bytes that stand in none: specifiers, a running process.
pub(crate) const NOWHERE: u32 = u32::MAX;

impl Traced {
    /// A value that stands in a file as it is.
    pub(crate) fn verbatim(text: &str, file: u32, offset: usize) -> Self {
        let from = (0..text.len()).map(|at| Place { file, offset: (offset + at) as u32 });
        Self { text: text.to_owned(), from: from.collect() }
    }

    /// A value that stands nowhere.
    pub(crate) fn nowhere(text: &str) -> Self {
        let from = vec![Place { file: NOWHERE, offset: 0 }; text.len()];
        Self { text: text.to_owned(), from }
    }

    /// A character that comes from one place.
    pub(crate) fn push(&mut self, character: char, file: u32, offset: usize) {
        self.text.push(character);
        let place = Place { file, offset: offset as u32 };
        self.from.resize(self.text.len(), place);
    }

    pub(crate) fn append(&mut self, other: &Self) {
        self.text.push_str(&other.text);
        self.from.extend_from_slice(&other.from);
    }

    /// A part of it, by bytes of the value.
    pub(crate) fn slice(&self, range: Range<usize>) -> Self {
        Self { text: self.text[range.clone()].to_owned(), from: self.from[range].to_vec() }
    }

    pub(crate) fn truncate(&mut self, length: usize) {
        self.text.truncate(length);
        self.from.truncate(length);
    }

    pub(crate) fn len(&self) -> usize {
        self.text.len()
    }

    /// The same value as bytes of another file than it was read as.
    pub(crate) fn in_file(mut self, file: u32) -> Self {
        for place in &mut self.from {
            place.file = file;
        }
        self
    }

    /// Where byte `at` of the value comes from: file and offset.
    pub(crate) fn place(&self, at: usize) -> Option<(u32, usize)> {
        self.from.get(at).map(|place| (place.file, place.offset as usize))
    }

    /// The one file and span it stands in, if it stands in one in order.
    pub(crate) fn span(&self) -> Option<(u32, Range<usize>)> {
        let (first, last) = (self.from.first()?, self.from.last()?);
        let ordered = self
            .from
            .windows(2)
            .all(|pair| pair[0].file == pair[1].file && pair[0].offset <= pair[1].offset);
        (ordered && first.file != NOWHERE).then(|| {
            // The last character ends where its last byte does: a character of
            // several bytes has the same offset throughout when it was pushed.
            let start = last.offset as usize;
            let same = self.from.iter().rev().take_while(|place| **place == *last).count();
            (first.file, first.offset as usize..start + same)
        })
    }

    /// Whether every byte follows on the one before it, with nothing between.
    pub(crate) fn is_verbatim(&self) -> bool {
        self.span().is_some_and(|(_, span)| span.len() == self.len())
    }
}

/// The files that values point into, by number.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Files(Vec<(String, String)>);

impl Files {
    pub(crate) fn add(&mut self, name: &str, text: &str) -> u32 {
        self.0.push((name.to_owned(), text.to_owned()));
        (self.0.len() - 1) as u32
    }

    /// Where a value stands, or the place it is used where it stands in
    /// several or none.
    pub(crate) fn origin(&self, value: &Traced, used: Option<(u32, usize)>, form: Form) -> Origin {
        let (place, composed) = match value.span() {
            Some((file, span)) => (Some((file, span)), false),
            None => (used.map(|(file, at)| (file, at..at)), !value.text.is_empty()),
        };
        let found = place.and_then(|(file, span)| Some((self.0.get(file as usize)?, span)));
        match found {
            Some(((name, text), span)) => Origin {
                file: Some(name.clone()),
                line: line_number(text, span.start),
                span,
                form,
                composed,
            },
            None => Origin { file: None, span: 0..0, line: 0, form, composed: false },
        }
    }
}
