//! Environment files, read as systemd reads `EnvironmentFile=`.
//!
//! The reader follows `src/basic/env-file.c` of systemd character by
//! character: no expansion of variables, `#` and `;` start a comment only at
//! the start of a line, a value may be put together from quoted and unquoted
//! parts, a backslash joins lines, the last assignment of a name counts. What
//! an edit does not name keeps its bytes.

use std::ops::Range;

use super::text::{
    EditError, MAX_TEXT, ParseError, Traced, insert_line, line_end, line_number, line_start,
    remove_lines, splice,
};
use super::words::{Escapes, find_flag, is_bare, is_space, split};

/// One `NAME=value`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// The name as it stands, also one that systemd ignores (`export NAME`).
    pub name: String,
    /// The value with quotes and escapes resolved.
    pub value: String,
    /// The line where the name stands, from 1.
    pub line: usize,
    /// The bytes behind `=`, to the end of the line or lines.
    pub raw: Range<usize>,
    /// All its lines, with their line feed.
    pub lines: Range<usize>,
    pub(crate) traced: Traced,
}

impl Assignment {
    /// Whether systemd takes it: the name is one, and the value has no control
    /// characters but tab and line feed.
    pub fn is_taken(&self) -> bool {
        super::is_variable_name(&self.name)
            && !self.value.chars().any(|c| c.is_control() && c != '\t' && c != '\n')
    }
}

/// An environment file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvFile {
    text: String,
    assignments: Vec<Assignment>,
    /// Where the text ends inside a quote, an escape or a comment's escape.
    open_end: bool,
    joined_comments: Vec<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    PreKey,
    Key,
    PreValue,
    Value,
    ValueEscape,
    Single,
    Double,
    DoubleEscape,
    Comment,
    CommentEscape,
}

const SPACE: [char; 4] = [' ', '\t', '\n', '\r'];
const NEWLINE: [char; 2] = ['\n', '\r'];

impl EnvFile {
    /// Reads a file. Every text is one, up to its size.
    ///
    /// # Errors
    /// The text is larger than 4 MiB or holds a NUL, which systemd refuses.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        if text.len() > MAX_TEXT {
            return Err(ParseError::at(text, 0, "the file is larger than 4 MiB"));
        }
        if let Some(at) = text.find('\0') {
            return Err(ParseError::at(text, at, "a NUL, with which systemd refuses the file"));
        }
        let mut assignments: Vec<Assignment> = Vec::new();
        let mut joined_comments = Vec::new();
        let mut state = State::PreKey;
        let (mut key, mut key_at, mut raw_at) = (String::new(), 0, 0);
        let mut value = Traced::default();
        // The length of the value without white space at its end.
        let mut solid = 0;
        let mut finish = |key: &mut String, value: &mut Traced, span: Range<usize>, key_at| {
            let raw_end = span.start + text[span.clone()].trim_end_matches(NEWLINE).len();
            assignments.push(Assignment {
                name: key.trim_end_matches(SPACE).to_owned(),
                value: value.text.clone(),
                line: line_number(text, key_at),
                raw: span.start..raw_end,
                lines: line_start(text, key_at)..line_end(text, span.end.saturating_sub(1)),
                traced: std::mem::take(value),
            });
            key.clear();
        };
        for (at, c) in text.char_indices() {
            let newline = NEWLINE.contains(&c);
            let after = at + c.len_utf8();
            match state {
                State::PreKey if c == '#' || c == ';' => state = State::Comment,
                State::PreKey if SPACE.contains(&c) => {}
                State::PreKey => {
                    (state, key_at) = (State::Key, at);
                    key.push(c);
                }
                State::Key if newline => {
                    state = State::PreKey;
                    key.clear();
                }
                State::Key if c == '=' => (state, raw_at, solid) = (State::PreValue, after, 0),
                State::Key => key.push(c),
                State::PreValue | State::Value if newline => {
                    if state == State::Value {
                        value.truncate(solid);
                    }
                    finish(&mut key, &mut value, raw_at..after, key_at);
                    state = State::PreKey;
                }
                State::PreValue if c == '\'' => state = State::Single,
                State::PreValue if c == '"' => state = State::Double,
                State::PreValue | State::Value if c == '\\' => {
                    (state, solid) = (State::ValueEscape, value.len());
                }
                State::PreValue if SPACE.contains(&c) => {}
                State::PreValue | State::Value => {
                    state = State::Value;
                    value.append(&Traced::verbatim(&text[at..after], 0, at));
                    if !SPACE.contains(&c) {
                        solid = value.len();
                    }
                }
                State::ValueEscape => {
                    state = State::Value;
                    if !newline {
                        value.append(&Traced::verbatim(&text[at..after], 0, at));
                    }
                    solid = value.len();
                }
                State::Single if c == '\'' => state = State::PreValue,
                State::Double if c == '"' => state = State::PreValue,
                State::Double if c == '\\' => state = State::DoubleEscape,
                State::Single | State::Double => {
                    value.append(&Traced::verbatim(&text[at..after], 0, at));
                }
                State::DoubleEscape => {
                    state = State::Double;
                    if !matches!(c, '"' | '\\' | '`' | '$' | '\n') {
                        value.push('\\', 0, at - 1);
                    }
                    if c != '\n' {
                        value.append(&Traced::verbatim(&text[at..after], 0, at));
                    }
                }
                State::Comment if c == '\\' => state = State::CommentEscape,
                State::Comment if newline => state = State::PreKey,
                State::CommentEscape if newline => {
                    joined_comments.push(line_number(text, at));
                    state = State::PreKey;
                }
                State::Comment | State::CommentEscape => state = State::Comment,
            }
        }
        match state {
            State::PreKey | State::Key | State::Comment | State::CommentEscape => {}
            _ => {
                if state == State::Value {
                    value.truncate(solid);
                }
                finish(&mut key, &mut value, raw_at..text.len(), key_at);
            }
        }
        let open_end = matches!(
            state,
            State::ValueEscape
                | State::Single
                | State::Double
                | State::DoubleEscape
                | State::CommentEscape
        );
        Ok(Self { text: text.to_owned(), assignments, open_end, joined_comments })
    }

    /// The text, byte for byte.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// All assignments in order, those that systemd ignores included.
    pub fn assignments(&self) -> &[Assignment] {
        &self.assignments
    }

    /// Lines of comments that end in a backslash: systemd before 254 takes the
    /// next line as part of the comment, from 254 on it does not (this reader
    /// neither).
    pub fn joined_comments(&self) -> &[usize] {
        &self.joined_comments
    }

    /// The assignment that counts: the last one of the name.
    pub fn get(&self, name: &str) -> Option<&Assignment> {
        self.assignments.iter().rev().find(|found| found.name == name && found.is_taken())
    }

    /// The value that counts.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.get(name).map(|found| found.value.as_str())
    }

    /// The text with the variable set: the assignment that counts is changed
    /// and keeps its way of quoting where the value allows it, or a line is
    /// added behind a commented-out one of the same name, or at the end.
    ///
    /// # Errors
    /// Not a name or a value of a variable; a file that ends inside a quote.
    pub fn set(&self, name: &str, value: &str) -> Result<String, EditError> {
        match self.get(name) {
            Some(found) => {
                let quote = self.text[found.raw.clone()].trim_start().chars().next();
                let raw = self.text.get(found.raw.clone()).unwrap_or_default();
                let lead = &raw[..raw.len() - raw.trim_start_matches([' ', '\t']).len()];
                let new = format!("{lead}{}", quoted(name, value, quote)?);
                self.checked(splice(&self.text, found.raw.clone(), &new), name, Some(value))
            }
            None => self.add(name, value),
        }
    }

    /// The text with a line for a variable that is not set.
    ///
    /// # Errors
    /// It is set; or as [`set`](Self::set).
    pub fn add(&self, name: &str, value: &str) -> Result<String, EditError> {
        if self.get(name).is_some() {
            return Err(EditError::Present(name.to_owned()));
        }
        let double = self
            .assignments
            .last()
            .is_some_and(|last| self.text[last.raw.clone()].trim_start().starts_with('"'));
        let line = format!("{name}={}", quoted(name, value, double.then_some('"'))?);
        let at = self.commented(name).unwrap_or(self.text.len());
        self.checked(insert_line(&self.text, at, &line), name, Some(value))
    }

    /// The text without any assignment of the variable.
    ///
    /// # Errors
    /// It is not set.
    pub fn remove(&self, name: &str) -> Result<String, EditError> {
        if self.assignments.iter().all(|found| found.name != name) {
            return Err(EditError::Absent(name.to_owned()));
        }
        // One at a time: without the last line the one before ends the text.
        let mut text = self.text.clone();
        loop {
            let read = Self::parse(&text)?;
            let Some(last) = read.assignments.iter().rfind(|found| found.name == name) else {
                break;
            };
            let shorter = remove_lines(&text, last.lines.clone());
            if shorter.len() >= text.len() {
                return Err(EditError::refused(name, "it has no line of its own"));
            }
            text = shorter;
        }
        self.checked(text, name, None)
    }

    /// The text with a flag set inside a variable that holds arguments, as
    /// Debian's `DAEMON_ARGS`: changed where it stands, or added at the end.
    ///
    /// # Errors
    /// The variable is not set; the value would need quotes; the flag stands
    /// in quotes of its own or over several lines.
    pub fn set_flag(&self, variable: &str, flag: &str, value: &str) -> Result<String, EditError> {
        let refused = |reason: &str| EditError::refused(format!("--{flag} in {variable}"), reason);
        if !is_bare(value) {
            return Err(refused("the value would need quotes"));
        }
        let (assignment, words) = self.arguments(variable, flag)?;
        let (span, with) = match find_flag(&words, flag) {
            Some(found) => {
                let old = found.value(&words).ok_or_else(|| refused("it has no value here"))?;
                if !found.joined && value.starts_with('-') {
                    return Err(refused("behind a space the value would be taken for a flag"));
                }
                if old.text.is_empty() {
                    return Err(refused("its value is empty"));
                }
                let (_, span) = old
                    .span()
                    .filter(|_| old.is_verbatim())
                    .ok_or_else(|| refused("its value is in quotes of its own"))?;
                (span, value.to_owned())
            }
            None => {
                let end = assignment.value.trim_end_matches(is_space).len();
                let lead = if end == 0 { "" } else { " " };
                (end..end, format!("{lead}--{flag}={value}"))
            }
        };
        self.set_part(assignment, span, &with)
    }

    /// The text without a flag inside a variable that holds arguments, however
    /// often it stands there.
    ///
    /// # Errors
    /// As [`set_flag`](Self::set_flag), or the flag is not there.
    pub fn remove_flag(&self, variable: &str, flag: &str) -> Result<String, EditError> {
        let mut text = self.remove_last(variable, flag)?;
        loop {
            match Self::parse(&text)?.remove_last(variable, flag) {
                Ok(next) => text = next,
                Err(EditError::Absent(_)) => return Ok(text),
                Err(error) => return Err(error),
            }
        }
    }

    fn remove_last(&self, variable: &str, flag: &str) -> Result<String, EditError> {
        let refused = |reason: &str| EditError::refused(format!("--{flag} in {variable}"), reason);
        let (assignment, words) = self.arguments(variable, flag)?;
        let absent = || EditError::Absent(format!("--{flag} in {variable}"));
        let found = find_flag(&words, flag).ok_or_else(absent)?;
        let last = if found.joined { found.word } else { found.word + 1 };
        let spans =
            [found.word, last].map(|word| words.get(word).filter(|w| w.is_verbatim())?.span());
        let [Some((_, first)), Some((_, last))] = spans else {
            return Err(refused("it is in quotes of its own"));
        };
        // With the space in front of it, or behind it if it is the first.
        let value = &assignment.value;
        let mut span = value[..first.start].trim_end_matches(is_space).len()..last.end;
        if span.start == 0 {
            let rest = &value[last.end..];
            span = first.start..value.len() - rest.trim_start_matches(is_space).len();
        }
        self.set_part(assignment, span, "")
    }

    /// A variable's words, placed by bytes of its value.
    fn arguments(
        &self,
        variable: &str,
        flag: &str,
    ) -> Result<(&Assignment, Vec<Traced>), EditError> {
        let assignment =
            self.get(variable).ok_or_else(|| EditError::Absent(variable.to_owned()))?;
        let value = Traced::verbatim(&assignment.value, 0, 0);
        let words = split(&value, Escapes::Relaxed)
            .map_err(|reason| EditError::refused(format!("--{flag} in {variable}"), reason))?;
        Ok((assignment, words))
    }

    /// The text with a part of a variable's value replaced, by bytes of the
    /// value.
    fn set_part(
        &self,
        assignment: &Assignment,
        span: Range<usize>,
        with: &str,
    ) -> Result<String, EditError> {
        let name = &assignment.name;
        let value = splice(&assignment.value, span.clone(), with);
        let raw = &self.text[assignment.raw.clone()];
        let quoted = raw.trim_start().starts_with(['"', '\'']);
        let part = assignment.traced.slice(span.clone());
        let place = if span.is_empty() {
            let before = span.start.checked_sub(1).and_then(|at| assignment.traced.place(at));
            before.map(|(_, at)| at + 1..at + 1)
        } else {
            part.span().filter(|_| part.is_verbatim()).map(|(_, span)| span)
        };
        match place.filter(|_| quoted || !with.contains(' ')) {
            Some(place) => self.checked(splice(&self.text, place, with), name, Some(&value)),
            None if raw.contains('\n') => {
                Err(EditError::refused(name, "its value goes over several lines"))
            }
            None => self.set(name, &value),
        }
    }

    /// The end of the last line that has `#NAME=`.
    fn commented(&self, name: &str) -> Option<usize> {
        let mut at = 0;
        let mut end = None;
        for line in self.text.split_inclusive('\n') {
            let rest = line.trim_start().strip_prefix(['#', ';']).map(str::trim_start);
            let rest = rest.and_then(|rest| rest.strip_prefix(name));
            at += line.len();
            if rest.is_some_and(|rest| rest.starts_with('=')) {
                end = Some(at);
            }
        }
        // Not inside a value of several lines.
        let inside = |at: usize| {
            self.assignments.iter().any(|found| found.lines.start < at && at < found.lines.end)
        };
        end.filter(|&end| !inside(end))
    }

    /// Reads the new text: the variable has the value, all others what they had.
    fn checked(&self, new: String, name: &str, value: Option<&str>) -> Result<String, EditError> {
        let refused = |reason: &str| Err(EditError::refused(name, reason));
        if self.open_end {
            return refused("the file ends inside a quote or behind a backslash");
        }
        if !self.joined_comments.is_empty() {
            let line = self.joined_comments[0];
            return refused(&format!(
                "line {line} is a comment that ends in a backslash, which versions of systemd read differently"
            ));
        }
        let read = Self::parse(&new)?;
        let others = |file: &Self| -> Vec<(String, String)> {
            let others = file.assignments.iter().filter(|found| found.name != name);
            others.map(|found| (found.name.clone(), found.value.clone())).collect()
        };
        if read.value(name) != value || others(&read) != others(self) {
            return refused("the file would not read back as demanded");
        }
        Ok(new)
    }
}

/// A value as it is written: as it was quoted before if that can hold it.
fn quoted(name: &str, value: &str, before: Option<char>) -> Result<String, EditError> {
    if !super::is_variable_name(name) {
        return Err(EditError::refused(name, "this is not the name of a variable"));
    }
    if value.chars().any(|c| c.is_control() && c != '\t') {
        return Err(EditError::refused(name, "the value has a control character"));
    }
    let plain = value.chars().all(|c| c.is_ascii_alphanumeric() || "_-./:,=@%+[]^~".contains(c));
    Ok(match before {
        Some('\'') if !value.contains('\'') => format!("'{value}'"),
        Some('"') => double(value),
        _ if plain => value.to_owned(),
        _ => double(value),
    })
}

fn double(value: &str) -> String {
    let mut text = String::from("\"");
    for c in value.chars() {
        if matches!(c, '"' | '\\' | '`' | '$') {
            text.push('\\');
        }
        text.push(c);
    }
    text.push('"');
    text
}
