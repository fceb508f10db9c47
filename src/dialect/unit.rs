//! systemd units with their drop-ins.
//!
//! Read as systemd reads them (`src/shared/conf-parser.c`,
//! `src/core/load-fragment.c`): a backslash at the end of a line joins it with
//! the next by a space, with or without a space before it; comments between
//! joined lines are left out; an empty assignment empties a list; drop-ins
//! follow the unit in the order of their names. Specifiers are expanded from
//! what is known and stay as they are otherwise.

use std::collections::BTreeMap;
use std::ops::Range;

use super::env_file::EnvFile;
use super::invocation::{Invocation, Variable};
use super::text::{
    EditError, Files, Form, MAX_TEXT, ParseError, Traced, insert_line, line_end, line_start, splice,
};
use super::words::{Escapes, find_flag, is_bare, is_space, split};

/// One `Key=value` of a unit file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directive {
    /// The section, without brackets.
    pub section: String,
    /// The name, as `ExecStart`.
    pub key: String,
    /// The value, lines joined.
    pub value: String,
    /// The line where it starts, from 1.
    pub line: usize,
    /// All its lines, with their line feed.
    pub lines: Range<usize>,
    traced: Traced,
}

/// One unit file or drop-in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitFile {
    name: String,
    text: String,
    directives: Vec<Directive>,
}

impl UnitFile {
    /// Reads a file. `name` is what origins call it, usually its path.
    ///
    /// # Errors
    /// The text is larger than 4 MiB. What systemd warns of and leaves out is
    /// left out.
    pub fn parse(name: &str, text: &str) -> Result<Self, ParseError> {
        if text.len() > MAX_TEXT {
            return Err(ParseError::at(text, 0, "the file is larger than 4 MiB"));
        }
        let mut directives = Vec::new();
        let mut section = String::new();
        let mut joined: Option<(Traced, usize)> = None;
        let mut at = 0;
        for line in text.split_inclusive('\n') {
            let start = at;
            at += line.len();
            let mut line = line.trim_end_matches(['\n', '\r']);
            let mut from = start;
            if start == 0
                && let Some(rest) = line.strip_prefix('\u{feff}')
            {
                (line, from) = (rest, 3);
            }
            if line.trim_start_matches(is_space).starts_with(['#', ';']) {
                continue;
            }
            let (mut whole, first) = joined.take().unwrap_or((Traced::default(), start));
            whole.append(&Traced::verbatim(line, 0, from));
            if ends_escaped(&whole.text) {
                let slash = whole.len() - 1;
                let place = whole.place(slash).map_or(start, |(_, place)| place);
                whole.truncate(slash);
                whole.push(' ', 0, place);
                joined = Some((whole, first));
                continue;
            }
            directive(&mut directives, &mut section, &whole, text, first..at);
        }
        if let Some((whole, first)) = joined {
            directive(&mut directives, &mut section, &whole, text, first..text.len());
        }
        Ok(Self { name: name.to_owned(), text: text.to_owned(), directives })
    }

    /// What origins call it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The text, byte for byte.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// All assignments in order.
    pub fn directives(&self) -> &[Directive] {
        &self.directives
    }

    /// The text with a flag of the command in `ExecStart=` changed, or added
    /// behind the last argument. Only the flag's own bytes differ.
    ///
    /// # Errors
    /// There is no `ExecStart=` or several; the flag's value comes from a
    /// variable; the value would need quotes.
    pub fn set_flag(&self, flag: &str, value: &str) -> Result<String, EditError> {
        let refused = |reason: &str| EditError::refused(format!("--{flag}"), reason);
        if !is_bare(value) {
            return Err(refused("the value would need quotes"));
        }
        let (command, words) = self.command(flag)?;
        let mut expected: Vec<String> = words.iter().map(|word| word.text.clone()).collect();
        let written = value.replace('%', "%%");
        let new = match find_flag(&words, flag) {
            Some(found) => {
                let old = found.value(&words).ok_or_else(|| refused("it has no value here"))?;
                if !found.joined && value.starts_with('-') {
                    return Err(refused("behind a space the value would be taken for a flag"));
                }
                if old.text.contains('$') || old.text.contains('%') {
                    return Err(refused("its value comes from a variable or a specifier"));
                }
                let (_, span) = old
                    .span()
                    .filter(|_| old.is_verbatim())
                    .ok_or_else(|| refused("its value is not written in one piece"))?;
                let word = if found.joined { found.word } else { found.word + 1 };
                expected[word].truncate(found.value_at.unwrap_or(0));
                expected[word].push_str(&written);
                splice(&self.text, span, &written)
            }
            None => {
                let last = words.last().and_then(Traced::span);
                let (_, span) = last.ok_or_else(|| refused("the command has no clear end"))?;
                let end = match self.text[span.end..].chars().next() {
                    Some(quote @ ('"' | '\'')) => span.end + quote.len_utf8(),
                    _ => span.end,
                };
                expected.push(format!("--{flag}={written}"));
                // A list with one flag on each line gets another line.
                let line = line_start(&self.text, span.start);
                let lead = &self.text[line..span.start];
                let own_line = line > command.lines.start && lead.trim().is_empty();
                let new = if own_line {
                    let ending = super::text::line_ending(&self.text);
                    format!(" \\{ending}{lead}--{flag}={written}")
                } else {
                    format!(" --{flag}={written}")
                };
                splice(&self.text, end..end, &new)
            }
        };
        self.checked(new, flag, &expected)
    }

    /// The text without a flag in `ExecStart=`, however often it stands there;
    /// a line that only held it goes.
    ///
    /// # Errors
    /// As [`set_flag`](Self::set_flag), or the flag is not there.
    pub fn remove_flag(&self, flag: &str) -> Result<String, EditError> {
        let mut text = self.remove_last(flag)?;
        loop {
            match Self::parse(&self.name, &text)?.remove_last(flag) {
                Ok(next) => text = next,
                Err(EditError::Absent(_)) => return Ok(text),
                Err(error) => return Err(error),
            }
        }
    }

    fn remove_last(&self, flag: &str) -> Result<String, EditError> {
        let refused = |reason: &str| EditError::refused(format!("--{flag}"), reason);
        let (command, words) = self.command(flag)?;
        let found =
            find_flag(&words, flag).ok_or_else(|| EditError::Absent(format!("--{flag}")))?;
        let last = if found.joined { found.word } else { found.word + 1 };
        let spans = [found.word, last].map(|word| words.get(word).and_then(Traced::span));
        let [Some((_, first)), Some((_, end))] = spans else {
            return Err(refused("it is not written in one piece"));
        };
        let bytes = self.text.as_bytes();
        let (mut start, mut end) = (first.start, end.end);
        if start > 0
            && matches!(bytes[start - 1], b'"' | b'\'')
            && bytes.get(end) == bytes.get(start - 1)
        {
            (start, end) = (start - 1, end + 1);
        }
        let line = line_start(&self.text, start);
        let rest = self.text[end..line_end(&self.text, end)].trim();
        let alone = self.text[line..start].trim().is_empty() && line > command.lines.start;
        let new = match (alone, rest) {
            (true, "\\") => splice(&self.text, line..line_end(&self.text, end), ""),
            (true, "") => {
                // The last line of the command: the one before ends it now.
                let before = self.text[..line].trim_end();
                let Some(before) = before.strip_suffix('\\') else {
                    return Err(refused("the line before does not end in a backslash"));
                };
                splice(&self.text, before.trim_end_matches(' ').len()..end, "")
            }
            _ => {
                let kept = self.text[..start].trim_end_matches([' ', '\t']).len();
                splice(&self.text, kept..end, "")
            }
        };
        let mut expected: Vec<String> = words.iter().map(|word| word.text.clone()).collect();
        expected.drain(found.word..=last);
        self.checked(new, flag, &expected)
    }

    /// The one command of this file, split into words with their places.
    fn command(&self, flag: &str) -> Result<(&Directive, Vec<Traced>), EditError> {
        let refused = |reason: &str| EditError::refused(format!("--{flag}"), reason);
        let mut commands = self.directives.iter().filter(|directive| {
            directive.section == "Service"
                && directive.key == "ExecStart"
                && !directive.value.is_empty()
        });
        let (Some(command), None) = (commands.next(), commands.next()) else {
            return Err(refused("the file has not exactly one ExecStart="));
        };
        let words = split(&command.traced, Escapes::C).map_err(|reason| refused(&reason))?;
        if words.iter().any(|word| word.text == ";") {
            return Err(refused("ExecStart= holds several commands"));
        }
        if words.iter().skip(1).any(|word| word.text == "-c") {
            return Err(refused("the command runs through a shell"));
        }
        Ok((command, words))
    }

    /// Reads the new text: the command has the words it should, and all other
    /// settings are what they were.
    fn checked(&self, new: String, flag: &str, expected: &[String]) -> Result<String, EditError> {
        let read = Self::parse(&self.name, &new)?;
        let (_, words) = read.command(flag)?;
        let others = |file: &Self| -> Vec<(String, String, String)> {
            let rest = file.directives.iter().filter(|found| found.key != "ExecStart");
            rest.map(|d| (d.section.clone(), d.key.clone(), d.value.clone())).collect()
        };
        let same =
            words.iter().map(|word| &word.text).eq(expected) && others(self) == others(&read);
        let reason = "it would not read back as demanded";
        if same { Ok(new) } else { Err(EditError::refused(format!("--{flag}"), reason)) }
    }

    /// The text with a variable of `Environment=` set: where the file assigns
    /// it last, or by a line of its own behind the last `Environment=`, or in
    /// front of `ExecStart=`, or at the end of `[Service]`.
    ///
    /// # Errors
    /// The value needs more than quotes, or the place is not clear.
    pub fn set_environment(&self, name: &str, value: &str) -> Result<String, EditError> {
        let refused = |reason: &str| EditError::refused(name, reason);
        if !super::is_variable_name(name) {
            return Err(refused("this is not the name of a variable"));
        }
        let harmless = |c: char| !c.is_control() && !matches!(c, '"' | '\\' | '\'' | '$' | '`');
        if !value.chars().all(harmless) {
            return Err(refused("the value needs escapes"));
        }
        let written = value.replace('%', "%%");
        let found = self.environment_words(name)?;
        let new = match found {
            Some(old) => {
                let (_, span) = old
                    .span()
                    .filter(|_| old.is_verbatim())
                    .ok_or_else(|| refused("its value is not written in one piece"))?;
                if old.text.contains('%') {
                    return Err(refused("its value has a specifier"));
                }
                let quoted = self.text[..span.start].ends_with(['"', '\'']);
                if quoted || is_bare(value) {
                    splice(&self.text, span, &format!("{name}={written}"))
                } else {
                    splice(&self.text, span, &format!("\"{name}={written}\""))
                }
            }
            None => {
                let service = |key: &str| {
                    let mut found = self.directives.iter().rev();
                    found.find(|found| found.section == "Service" && found.key == key)
                };
                let at = match (service("Environment"), service("ExecStart")) {
                    (Some(found), _) => found.lines.end,
                    (None, Some(found)) => found.lines.start,
                    _ => return Err(refused("the file has neither Environment= nor ExecStart=")),
                };
                let line = if is_bare(value) {
                    format!("Environment={name}={written}")
                } else {
                    format!("Environment=\"{name}={written}\"")
                };
                insert_line(&self.text, at, &line)
            }
        };
        let read = Self::parse(&self.name, &new)?;
        let own = read.environment_words(name)?.map(|word| word.text);
        if own.as_deref() != Some(format!("{name}={written}").as_str()) {
            return Err(refused("it would not read back as demanded"));
        }
        Ok(new)
    }

    /// The word of the last assignment of a variable in this file.
    fn environment_words(&self, name: &str) -> Result<Option<Traced>, EditError> {
        let mut found = None;
        for directive in &self.directives {
            if directive.section == "Service" && directive.key == "Environment" {
                let words = split(&directive.traced, Escapes::C)
                    .map_err(|reason| EditError::refused(name, reason))?;
                let own = words.into_iter().rfind(|word| {
                    word.text.strip_prefix(name).is_some_and(|rest| rest.starts_with('='))
                });
                found = own.or(found);
            }
        }
        Ok(found)
    }
}

/// Whether a line ends in a backslash that is not itself escaped.
fn ends_escaped(line: &str) -> bool {
    let slashes = line.bytes().rev().take_while(|&byte| byte == b'\\').count();
    slashes % 2 == 1
}

fn directive(
    directives: &mut Vec<Directive>,
    section: &mut String,
    whole: &Traced,
    text: &str,
    lines: Range<usize>,
) {
    let trimmed = trim(whole);
    if let Some(rest) = trimmed.text.strip_prefix('[') {
        if let Some(name) = rest.strip_suffix(']') {
            name.clone_into(section);
        }
        return;
    }
    let Some(equals) = trimmed.text.find('=') else { return };
    let key = trimmed.text[..equals].trim_end_matches(is_space).to_owned();
    if key.is_empty() || section.is_empty() {
        return;
    }
    let value = trim(&trimmed.slice(equals + 1..trimmed.len()));
    directives.push(Directive {
        section: section.clone(),
        key,
        value: value.text.clone(),
        line: super::text::line_number(text, lines.start),
        lines,
        traced: value,
    });
}

fn trim(value: &Traced) -> Traced {
    let start = value.len() - value.text.trim_start_matches(is_space).len();
    let end = value.text.trim_end_matches(is_space).len();
    value.slice(start..end.max(start))
}

/// What specifiers stand for.
#[derive(Debug, Clone, Default)]
pub struct Specifiers {
    values: BTreeMap<char, String>,
}

impl Specifiers {
    /// What follows from the unit's name and the host's: `%n %N %p %P %i %I
    /// %j %J %H %l`, and the directories of a system unit.
    pub fn of(unit: &str, host: Option<&str>) -> Self {
        let stem = unit.rsplit_once('.').map_or(unit, |(stem, _)| stem);
        let (prefix, instance) = stem.split_once('@').unwrap_or((stem, ""));
        let last = |name: &str| name.rsplit('-').next().unwrap_or(name).to_owned();
        let mut values: BTreeMap<char, String> = [
            ('n', unit.to_owned()),
            ('N', stem.to_owned()),
            ('p', prefix.to_owned()),
            ('P', unescape_name(prefix)),
            ('i', instance.to_owned()),
            ('I', unescape_name(instance)),
            ('j', last(prefix)),
            ('J', unescape_name(&last(prefix))),
        ]
        .into();
        let fixed = [
            ('t', "/run"),
            ('S', "/var/lib"),
            ('C', "/var/cache"),
            ('L', "/var/log"),
            ('E', "/etc"),
            ('T', "/tmp"),
            ('V', "/var/tmp"),
            ('h', "/root"),
            ('s', "/bin/sh"),
        ];
        values.extend(fixed.map(|(letter, value)| (letter, value.to_owned())));
        if let Some(host) = host {
            values.insert('H', host.to_owned());
            values.insert('l', host.split('.').next().unwrap_or(host).to_owned());
        }
        Self { values }
    }

    /// With another value, as for `%m` or `%v`.
    pub fn with(mut self, letter: char, value: &str) -> Self {
        self.values.insert(letter, value.to_owned());
        self
    }

    /// Replaces what is known; the rest stays as it is.
    fn expand(&self, value: &Traced) -> Traced {
        let mut new = Traced::default();
        let mut characters = value.text.char_indices().peekable();
        while let Some((at, c)) = characters.next() {
            if c != '%' {
                new.append(&value.slice(at..at + c.len_utf8()));
                continue;
            }
            match characters.peek().copied() {
                Some((behind, '%')) => {
                    characters.next();
                    new.append(&value.slice(behind..behind + 1));
                }
                Some((_, letter)) if self.values.contains_key(&letter) => {
                    characters.next();
                    new.append(&Traced::nowhere(&self.values[&letter]));
                }
                _ => new.append(&value.slice(at..at + 1)),
            }
        }
        new
    }
}

/// `unit_name_unescape`: `-` is `/`, `\xNN` a byte.
fn unescape_name(name: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = name.as_bytes();
    while let [first, tail @ ..] = rest {
        let hex = tail.get(..3).filter(|_| *first == b'\\' && tail[0] == b'x');
        let byte = hex.and_then(|hex| std::str::from_utf8(&hex[1..]).ok());
        match (byte.and_then(|hex| u8::from_str_radix(hex, 16).ok()), first) {
            (Some(byte), _) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            (None, b'-') => {
                bytes.push(b'/');
                rest = tail;
            }
            (None, byte) => {
                bytes.push(*byte);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The drop-ins of a unit in the order in which systemd reads them: by file
/// name, of files with the same name only the one in the first directory of
/// `/etc`, `/run`, `/usr/local/lib`, `/usr/lib`, `/lib`; a more specific
/// folder before a more general one in the same directory.
pub fn order_drop_ins<'p>(paths: impl IntoIterator<Item = &'p str>) -> Vec<&'p str> {
    let rank = |path: &str| {
        let roots = ["/etc/", "/run/", "/usr/local/lib/", "/usr/lib/", "/lib/"];
        roots.iter().position(|root| path.starts_with(root)).unwrap_or(roots.len())
    };
    // `etcd.service.d` before `service.d`.
    let general = |path: &str| {
        let folder = path.rsplit('/').nth(1).unwrap_or("");
        std::cmp::Reverse(folder.len())
    };
    let mut chosen: BTreeMap<&str, &str> = BTreeMap::new();
    for path in paths {
        let name = path.rsplit('/').next().unwrap_or(path);
        if !name.ends_with(".conf") {
            continue;
        }
        let better = chosen
            .get(name)
            .is_none_or(|old| (general(path), rank(path)) < (general(old), rank(old)));
        if better {
            chosen.insert(name, path);
        }
    }
    chosen.into_values().collect()
}

/// A file named by `EnvironmentFile=`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvironmentFile {
    /// The path, specifiers expanded as far as they are known. It may be a
    /// glob.
    pub path: String,
    /// Whether the service starts without it (`-`).
    pub optional: bool,
}

/// A unit and its drop-ins, merged.
#[derive(Debug, Clone)]
pub struct Unit {
    files: Vec<UnitFile>,
    specifiers: Specifiers,
}

impl Unit {
    /// Merges a unit's file and its drop-ins, which are given in the order of
    /// [`order_drop_ins`].
    pub fn merge(file: UnitFile, drop_ins: Vec<UnitFile>, specifiers: Specifiers) -> Self {
        let mut files = vec![file];
        files.extend(drop_ins);
        Self { files, specifiers }
    }

    /// The files in the order in which they are read.
    pub fn files(&self) -> &[UnitFile] {
        &self.files
    }

    /// The assignments of a list that count, empty ones having emptied it.
    fn list(&self, key: &str) -> Vec<(u32, &Directive)> {
        let mut list = Vec::new();
        for (number, file) in self.files.iter().enumerate() {
            for directive in &file.directives {
                if directive.section == "Service" && directive.key == key {
                    if directive.value.is_empty() {
                        list.clear();
                    } else {
                        list.push((number as u32, directive));
                    }
                }
            }
        }
        list
    }

    /// The value of a `[Service]` setting that holds one, as `User`.
    pub fn value(&self, key: &str) -> Option<String> {
        let found = self
            .files
            .iter()
            .flat_map(|file| &file.directives)
            .rfind(|found| found.section == "Service" && found.key == key)?;
        let value = self.specifiers.expand(&found.traced).text;
        (!value.is_empty()).then_some(value)
    }

    /// The environment files, in order. A later one wins over an earlier one,
    /// and all of them over `Environment=`.
    pub fn environment_files(&self) -> Vec<EnvironmentFile> {
        let list = self.list("EnvironmentFile");
        let files = list.into_iter().map(|(_, directive)| {
            let value = self.specifiers.expand(&directive.traced).text;
            match value.strip_prefix('-') {
                Some(path) => EnvironmentFile { path: path.to_owned(), optional: true },
                None => EnvironmentFile { path: value, optional: false },
            }
        });
        files.collect()
    }

    /// The command that starts the service, and its environment.
    ///
    /// `environment` are the texts of the environment files that exist, in
    /// order, by path.
    ///
    /// # Errors
    /// There is no `ExecStart=` or several commands; an environment file or a
    /// line cannot be read; `sh -c` with more than a simple command.
    pub fn invocation(&self, environment: &[(String, String)]) -> Result<Invocation, ParseError> {
        let mut files = Files::default();
        for file in &self.files {
            files.add(&file.name, &file.text);
        }
        let mut variables: BTreeMap<String, Traced> = BTreeMap::new();
        for (number, directive) in self.list("Environment") {
            // A line that systemd cannot split it leaves out.
            for word in
                split(&directive.traced.clone().in_file(number), Escapes::C).unwrap_or_default()
            {
                let word = self.specifiers.expand(&word);
                assign(&mut variables, &word);
            }
        }
        for (path, text) in environment {
            let number = files.add(path, text);
            for assignment in EnvFile::parse(text)?.assignments() {
                if assignment.is_taken() {
                    let value = assignment.traced.clone().in_file(number);
                    variables.insert(assignment.name.clone(), value);
                }
            }
        }
        for (_, directive) in self.list("UnsetEnvironment") {
            for word in split(&directive.traced, Escapes::C).unwrap_or_default() {
                match word.text.split_once('=') {
                    Some((name, value)) => {
                        if variables.get(name).is_some_and(|found| found.text == value) {
                            variables.remove(name);
                        }
                    }
                    None => drop(variables.remove(&word.text)),
                }
            }
        }
        let commands = self.list("ExecStart");
        let problem = |line: usize, problem: String| ParseError { line, problem };
        let [(number, directive)] = commands.as_slice() else {
            let line = commands.last().map_or(1, |(_, directive)| directive.line);
            return Err(problem(line, format!("{} ExecStart= are in force", commands.len())));
        };
        let words = split(&directive.traced.clone().in_file(*number), Escapes::C)
            .map_err(|reason| problem(directive.line, reason))?;
        if words.iter().any(|word| word.text == ";") {
            return Err(problem(directive.line, "ExecStart= holds several commands".to_owned()));
        }
        let mut words = words.into_iter();
        let first = words.next().unwrap_or_default();
        let prefix =
            first.text.len() - first.text.trim_start_matches(['@', '-', ':', '+', '!', '|']).len();
        let prefixes = first.text[..prefix].to_owned();
        let program = self.specifiers.expand(&first.slice(prefix..first.len()));
        if prefixes.contains('@') {
            // The word behind the path is what the process calls itself.
            words.next();
        }
        let mut arguments = Vec::new();
        for word in words {
            let word = self.specifiers.expand(&word);
            if prefixes.contains(':') {
                arguments.push(word);
                continue;
            }
            match whole_variable(&word.text) {
                Some(name) => {
                    let value = variables.get(name).cloned().unwrap_or_default();
                    arguments.extend(split(&value, Escapes::Relaxed).unwrap_or_default());
                }
                None => arguments.push(substitute(&word, &variables)),
            }
        }
        let used = directive.traced.clone().in_file(*number).place(0);
        let variables = variables.into_iter().map(|(name, value)| {
            let origin = files.origin(&value, None, Form::Environment);
            Variable { name, value: value.text.clone(), origin, traced: value }
        });
        let variables = variables.collect();
        let invocation = Invocation::new(files, program, arguments, variables, used);
        invocation.through_shell().map_err(|reason| problem(directive.line, reason))
    }
}

fn assign(variables: &mut BTreeMap<String, Traced>, word: &Traced) {
    if let Some((name, _)) = word.text.split_once('=')
        && super::is_variable_name(name)
    {
        variables.insert(name.to_owned(), word.slice(name.len() + 1..word.len()));
    }
}

/// The name of a word that is `$NAME` as a whole (`replace_env_argv`).
fn whole_variable(word: &str) -> Option<&str> {
    word.strip_prefix('$').filter(|rest| !rest.starts_with(['{', '$']))
}

/// `${NAME}` within a word; `$$` is a dollar; anything else stays.
fn substitute(word: &Traced, variables: &BTreeMap<String, Traced>) -> Traced {
    let mut new = Traced::default();
    let text = &word.text;
    let mut at = 0;
    while let Some(c) = text[at..].chars().next() {
        let rest = &text[at..];
        let name =
            rest.strip_prefix("${").and_then(|rest| rest.split_once('}')).map(|(name, _)| name);
        if let Some(name) = name {
            if let Some(value) = variables.get(name) {
                new.append(value);
            }
            at += name.len() + 3;
        } else if rest.starts_with("$$") {
            new.append(&word.slice(at..at + 1));
            at += 2;
        } else {
            new.append(&word.slice(at..at + c.len_utf8()));
            at += c.len_utf8();
        }
    }
    new
}
