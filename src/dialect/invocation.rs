//! A command as it is started: program, arguments and environment, each with
//! the place it comes from. Units, pods and running processes all become one.

use super::text::{Files, Form, NOWHERE, Origin, Traced};
use super::words::simple_command;

/// An argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Argument {
    /// Its value.
    pub value: String,
    /// Where it stands.
    pub origin: Origin,
    pub(crate) traced: Traced,
}

/// A variable of the environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
    /// Where the value stands.
    pub origin: Origin,
    pub(crate) traced: Traced,
}

/// How a program reads its flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// Go's own package: `-name` is `--name`, a lone word ends the flags.
    Go,
    /// As Kubernetes' programs: words between flags, `_` for `-` in names.
    Posix,
}

/// A flag of the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Flag {
    pub(crate) name: String,
    pub(crate) value: String,
    pub(crate) origin: Origin,
}

/// A command as it is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invocation {
    program: Traced,
    arguments: Vec<Argument>,
    variables: Vec<Variable>,
    files: Files,
    used: Option<(u32, usize)>,
}

impl Invocation {
    pub(crate) fn new(
        files: Files,
        program: Traced,
        arguments: Vec<Traced>,
        variables: Vec<Variable>,
        used: Option<(u32, usize)>,
    ) -> Self {
        let arguments = arguments.into_iter().map(|traced| Argument {
            value: traced.text.clone(),
            origin: files.origin(&traced, used, Form::Flag),
            traced,
        });
        Self { program, arguments: arguments.collect(), variables, used, files: files.clone() }
    }

    /// A running process: its arguments, the program first, and its
    /// environment as `NAME=value`. Of a repeated name the first counts, as
    /// for a program in Go.
    pub fn running<A: AsRef<str>, E: AsRef<str>>(argv: &[A], environ: &[E]) -> Self {
        let mut variables: Vec<Variable> = Vec::new();
        for entry in environ {
            let Some((name, value)) = entry.as_ref().split_once('=') else { continue };
            if variables.iter().all(|known| known.name != name) {
                variables.push(variable(name, Traced::nowhere(value)));
            }
        }
        let arguments = argv.iter().skip(1).map(|word| Traced::nowhere(word.as_ref()));
        let program = Traced::nowhere(argv.first().map_or("", AsRef::as_ref));
        Self::new(Files::default(), program, arguments.collect(), variables, None)
    }

    /// The program's path as the command has it.
    pub fn program(&self) -> &str {
        &self.program.text
    }

    /// The last part of the program's path.
    pub fn program_name(&self) -> &str {
        let program = self.program();
        program.rsplit('/').next().unwrap_or(program)
    }

    /// The arguments, without the program.
    pub fn arguments(&self) -> &[Argument] {
        &self.arguments
    }

    /// The environment, as far as files set it.
    pub fn variables(&self) -> &[Variable] {
        &self.variables
    }

    /// The variable of a name.
    pub fn variable(&self, name: &str) -> Option<&Variable> {
        self.variables.iter().find(|variable| variable.name == name)
    }

    /// With `sh -c …` taken apart into the command it runs.
    pub(crate) fn through_shell(self) -> Result<Self, String> {
        let shell = matches!(self.program_name(), "sh" | "bash" | "dash");
        let [option, script] = self.arguments.as_slice() else { return Ok(self) };
        if !shell || option.value != "-c" {
            return Ok(self);
        }
        let lookup = |name: &str| self.variable(name).map(|variable| variable.traced.clone());
        let mut words = simple_command(&script.traced, lookup)
            .map_err(|reason| format!("the command runs through a shell, with {reason}"))?
            .into_iter();
        let program = words.next().ok_or("the shell runs no command")?;
        let arguments = words.collect();
        Ok(Self::new(self.files, program, arguments, self.variables, self.used))
    }

    /// With Kubernetes' `$(NAME)` replaced by the variables of the container.
    pub(crate) fn with_references(self) -> Self {
        let expand = |word: &Traced| {
            let mut new = Traced::default();
            let text = &word.text;
            let mut at = 0;
            while let Some(c) = text.get(at..).and_then(|rest| rest.chars().next()) {
                let rest = &text[at..];
                let name = rest.strip_prefix("$(").and_then(|rest| rest.split_once(')'));
                let value =
                    name.and_then(|(name, _)| self.variable(name).map(|found| (name, found)));
                if let Some((name, variable)) = value {
                    new.append(&variable.traced);
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
        };
        let program = expand(&self.program);
        let arguments = self.arguments.iter().map(|word| expand(&word.traced)).collect();
        Self::new(self.files.clone(), program, arguments, self.variables.clone(), self.used)
    }

    /// The flags in order, and the words that are none.
    pub(crate) fn flags(
        &self,
        style: Style,
        is_switch: impl Fn(&str) -> bool,
    ) -> (Vec<Flag>, Vec<&Argument>) {
        let (mut flags, mut words) = (Vec::new(), Vec::new());
        let mut arguments = self.arguments.iter().peekable();
        while let Some(argument) = arguments.next() {
            let text = &argument.value;
            let name = text.strip_prefix("--").or_else(|| text.strip_prefix('-'));
            let Some(name) = name.filter(|_| text != "-") else {
                words.push(argument);
                if style == Style::Go {
                    words.extend(arguments);
                    break;
                }
                continue;
            };
            if name.is_empty() {
                words.extend(arguments);
                break;
            }
            let normal = |name: &str| match style {
                Style::Go => name.to_owned(),
                Style::Posix => name.replace('_', "-"),
            };
            let (name, value) = match name.split_once('=') {
                Some((name, _)) => {
                    let start =
                        text.len() - argument.value[text.find('=').unwrap_or(0) + 1..].len();
                    (normal(name), argument.traced.slice(start..text.len()))
                }
                None => {
                    let name = normal(name);
                    let takes = !is_switch(&name);
                    let next = arguments.next_if(|next| {
                        takes && (style == Style::Go || !next.value.starts_with("--"))
                    });
                    (name, next.map_or(Traced::nowhere("true"), |next| next.traced.clone()))
                }
            };
            // A switch without a value, and an empty value, stand where the
            // flag does.
            let used = argument.traced.place(0).filter(|(file, _)| *file != NOWHERE).or(self.used);
            let mut origin = self.files.origin(&value, used, Form::Flag);
            if value.text == "true" && !text.contains('=') {
                origin.composed = false;
            }
            flags.push(Flag { name, value: value.text.clone(), origin });
        }
        (flags, words)
    }
}

pub(crate) fn variable(name: &str, traced: Traced) -> Variable {
    let origin = Files::default().origin(&traced, None, Form::Environment);
    Variable { name: name.to_owned(), value: traced.text.clone(), origin, traced }
}
