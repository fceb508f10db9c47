//! Words as systemd splits them in `ExecStart=` and `Environment=`, and as a
//! shell splits a simple command. Each keeps where its characters stand.

use super::text::Traced;

/// What a backslash does outside of a shell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Escapes {
    /// C escapes; an unknown one is an error (`ExecStart=`, `Environment=`).
    C,
    /// The character behind it, whatever it is, and no errors (`$VAR`).
    Relaxed,
}

/// Splits at white space, honouring quotes and escapes
/// (`src/basic/extract-word.c` of systemd).
pub(crate) fn split(line: &Traced, escapes: Escapes) -> Result<Vec<Traced>, String> {
    let mut words = Vec::new();
    let mut characters = line.text.char_indices().peekable();
    loop {
        while characters.next_if(|(_, c)| is_space(*c)).is_some() {}
        if characters.peek().is_none() {
            return Ok(words);
        }
        let mut word = Traced::default();
        let mut quote = None;
        let mut closed = false;
        while let Some((at, c)) = characters.next() {
            let place = line.place(at).unwrap_or((super::text::NOWHERE, 0));
            match (c, quote) {
                ('\\', _) => {
                    let Some((behind, next)) = characters.next() else {
                        if escapes == Escapes::Relaxed {
                            word.push('\\', place.0, place.1);
                            break;
                        }
                        return Err("a backslash ends the line".to_owned());
                    };
                    let character = match escapes {
                        Escapes::Relaxed => next,
                        Escapes::C => unescape(next, &mut characters)
                            .ok_or_else(|| format!("\\{next} is no escape"))?,
                    };
                    let place = line.place(behind).unwrap_or(place);
                    word.push(character, place.0, place.1);
                }
                (c, Some(open)) if c == open => quote = None,
                ('\'' | '"', None) => {
                    quote = Some(c);
                }
                (c, None) if is_space(c) => {
                    closed = true;
                    break;
                }
                (c, _) => push(&mut word, line, at, c),
            }
        }
        if !closed && quote.is_some() && escapes == Escapes::C {
            return Err("a quote is not closed".to_owned());
        }
        words.push(word);
    }
}

/// A character as its own bytes stand.
fn push(word: &mut Traced, line: &Traced, at: usize, c: char) {
    word.append(&line.slice(at..at + c.len_utf8()));
}

pub(crate) fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r')
}

type Characters<'a> = std::iter::Peekable<std::str::CharIndices<'a>>;

/// `cunescape_one` of systemd, behind the backslash.
fn unescape(c: char, rest: &mut Characters<'_>) -> Option<char> {
    let mut number = |digits: usize, radix: u32, first: u32| {
        let mut value = first;
        for _ in 0..digits {
            value = value * radix + rest.next()?.1.to_digit(radix)?;
        }
        char::from_u32(value).filter(|&c| c != '\0')
    };
    Some(match c {
        'a' => '\u{7}',
        'b' => '\u{8}',
        'f' => '\u{c}',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'v' => '\u{b}',
        's' => ' ',
        '\\' | '"' | '\'' => c,
        'x' => number(2, 16, 0)?,
        'u' => number(4, 16, 0)?,
        'U' => number(8, 16, 0)?,
        '0'..='7' => number(2, 8, c.to_digit(8)?)?,
        _ => return None,
    })
}

/// The words of `sh -c`'s simple command: assignments, `exec` and then the
/// command, whose arguments may hold quotes and variables.
///
/// `lookup` gives the environment. What needs a real shell (lists, pipes,
/// substitutions, globs in an argument) is an error that says what it is.
pub(crate) fn simple_command(
    script: &Traced,
    lookup: impl Fn(&str) -> Option<Traced>,
) -> Result<Vec<Traced>, String> {
    let mut words: Vec<Traced> = Vec::new();
    let mut word: Option<Traced> = None;
    let mut quote = None;
    let text = &script.text;
    let mut at = 0;
    while let Some(c) = text.get(at..).and_then(|rest| rest.chars().next()) {
        let next = text[at + c.len_utf8()..].chars().next();
        let width = c.len_utf8();
        match (c, quote) {
            ('\'', Some('\'')) | ('"', Some('"')) => quote = None,
            (_, Some('\'')) => push(word.get_or_insert_default(), script, at, c),
            ('\\', _) => {
                let Some(next) = next else { return Err("a backslash ends the script".into()) };
                let kept = quote == Some('"') && !matches!(next, '$' | '`' | '"' | '\\' | '\n');
                if kept {
                    push(word.get_or_insert_default(), script, at, c);
                }
                if next != '\n' {
                    push(word.get_or_insert_default(), script, at + 1, next);
                }
                at += 1 + next.len_utf8();
                continue;
            }
            ('\'' | '"', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            ('`', _) => return Err("a command substitution".to_owned()),
            ('$', _) if next == Some('(') => {
                // Only in an assignment: its value does not matter here.
                let assigned = word.as_ref().is_some_and(|word| is_assignment(&word.text));
                let end = text[at..].find(')').map(|end| at + end + 1);
                let (true, true, Some(end)) = (assigned, words.is_empty(), end) else {
                    return Err("a command substitution".to_owned());
                };
                at = end;
                continue;
            }
            ('$', _) => {
                let rest = &text[at + 1..];
                let (name, length) = match rest.strip_prefix('{') {
                    Some(rest) => match rest.split_once('}') {
                        Some((name, _)) => (name, name.len() + 2),
                        None => return Err("a variable that is not closed".to_owned()),
                    },
                    None => {
                        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
                        let name = &rest[..end.unwrap_or(rest.len())];
                        (name, name.len())
                    }
                };
                if !super::is_variable_name(name) {
                    return Err(format!("the expansion ${{{name}}}"));
                }
                let value = lookup(name).unwrap_or_default();
                if quote.is_some() {
                    word.get_or_insert_default().append(&value);
                } else {
                    let parts = fields(&value);
                    let count = parts.len();
                    if value.text.starts_with(is_space) && word.is_some() {
                        words.extend(word.take());
                    }
                    for (number, part) in parts.iter().enumerate() {
                        word.get_or_insert_default().append(part);
                        if number + 1 < count || value.text.ends_with(is_space) {
                            words.extend(word.take());
                        }
                    }
                }
                at += 1 + length;
                continue;
            }
            (c, None) if c == ' ' || c == '\t' => words.extend(word.take()),
            ('\n' | ';' | '&' | '|' | '<' | '>' | '(' | ')' | '*' | '?', None) => {
                return Err(format!("{c:?}, which needs a shell"));
            }
            ('#', None) if word.is_none() => return Err("a comment".to_owned()),
            (c, _) => push(word.get_or_insert_default(), script, at, c),
        }
        at += width;
    }
    if quote.is_some() {
        return Err("a quote is not closed".to_owned());
    }
    words.extend(word);
    let command = words
        .iter()
        .position(|word| !is_assignment(&word.text) && word.text != "exec")
        .unwrap_or(words.len());
    Ok(words.split_off(command))
}

fn is_assignment(word: &str) -> bool {
    word.split_once('=').is_some_and(|(name, _)| super::is_variable_name(name))
}

/// A variable's value split at white space, without quotes, as a shell does.
fn fields(value: &Traced) -> Vec<Traced> {
    let mut fields = Vec::new();
    let mut start = None;
    for (at, c) in value.text.char_indices().chain([(value.len(), ' ')]) {
        match (is_space(c), start) {
            (true, Some(from)) => {
                fields.push(value.slice(from..at));
                start = None;
            }
            (false, None) => start = Some(at),
            _ => {}
        }
    }
    fields
}

/// Where a flag stands among words.
pub(crate) struct FoundFlag {
    pub(crate) word: usize,
    /// `--flag=value` in one word, or a flag without a value.
    pub(crate) joined: bool,
    pub(crate) value_at: Option<usize>,
}

impl FoundFlag {
    pub(crate) fn value(&self, words: &[Traced]) -> Option<Traced> {
        let word = words.get(if self.joined { self.word } else { self.word + 1 })?;
        self.value_at.map(|at| word.slice(at..word.len()))
    }
}

/// The last flag of a name among words.
pub(crate) fn find_flag(words: &[Traced], flag: &str) -> Option<FoundFlag> {
    let word = words.iter().rposition(|word| {
        let name = word.text.strip_prefix("--").or_else(|| word.text.strip_prefix('-'));
        name.and_then(|name| name.strip_prefix(flag))
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
    })?;
    let equals = words[word].text.find('=');
    let next = words.get(word + 1).is_some_and(|next| !next.text.starts_with('-'));
    Some(match equals {
        Some(at) => FoundFlag { word, joined: true, value_at: Some(at + 1) },
        None if next && !super::settings::is_switch(flag) => {
            FoundFlag { word, joined: false, value_at: Some(0) }
        }
        None => FoundFlag { word, joined: true, value_at: None },
    })
}

/// Whether systemd takes a value as one word without quotes, variables or
/// escapes. A specifier's `%` is doubled by the caller.
pub(crate) fn is_bare(value: &str) -> bool {
    !value.is_empty()
        && value.chars().all(|c| c.is_ascii_alphanumeric() || "_-./:,=@%+[]~".contains(c))
}
