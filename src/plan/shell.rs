//! A plan as stock commands, for those who want to do it by hand or read it
//! first. Nothing here is ever run by this program.
//!
//! Every word goes through [`quote`]; comments are cut to printable text, so that
//! no name or content can become a command.

use std::fmt::Write as _;

use super::{Place, Plan, Step};

/// A part of a word of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// This text.
    Text(String),
    /// What an earlier step gave under this name.
    Output(String),
    /// What reaches this node, for `ssh` and `scp`.
    Reach(Place),
}

/// A command for one node's root shell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// Where it is typed; the operator's machine otherwise.
    pub node: Option<Place>,
    /// Program and arguments.
    pub words: Vec<Vec<Part>>,
    /// What it gets on its standard input.
    pub input: Option<String>,
    /// The output whose value it prints.
    pub gives: Option<String>,
    /// What whoever types it should know.
    pub note: Option<String>,
}

impl Command {
    /// The command of these words on `node`.
    pub fn new<T: Into<String>>(node: Option<&Place>, words: impl IntoIterator<Item = T>) -> Self {
        let words = words.into_iter().map(|word| vec![Part::Text(word.into())]).collect();
        Self { node: node.cloned(), words, input: None, gives: None, note: None }
    }

    /// One more word: text and an output's value behind it.
    #[must_use]
    pub fn with_output(mut self, before: &str, output: &str) -> Self {
        self.words.push(vec![Part::Text(before.to_owned()), Part::Output(output.to_owned())]);
        self
    }

    /// The same with a path on `node` as one more word, as `scp` takes it.
    #[must_use]
    pub fn to(mut self, node: &Place, path: &str) -> Self {
        self.words.push(vec![Part::Reach(node.clone()), Part::Text(format!(":{path}"))]);
        self
    }

    /// The same with a note.
    #[must_use]
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.note = Some(note.into());
        self
    }

    /// The same with something to read.
    #[must_use]
    pub fn input(mut self, input: impl Into<String>) -> Self {
        self.input = Some(input.into());
        self
    }

    /// The same, giving an output.
    #[must_use]
    pub fn gives(mut self, output: impl Into<String>) -> Self {
        self.gives = Some(output.into());
        self
    }

    /// One line or more of POSIX shell; nodes are reached by their names.
    pub fn line(&self) -> String {
        self.line_to(&by_name)
    }

    /// The same; `reach` says what reaches a node.
    fn line_to(&self, reach: &dyn Fn(&Place) -> String) -> String {
        let words: Vec<String> = self.words.iter().map(|word| render(word, reach)).collect();
        let mut line = words.join(" ");
        if let Some(input) = &self.input {
            line = format!("printf %s {} | {line}", quote(input));
        }
        match &self.gives {
            Some(output) => format!("{}=$({line})", variable(output)),
            None => line,
        }
    }
}

fn by_name(node: &Place) -> String {
    node.to_string()
}

fn render(word: &[Part], reach: &dyn Fn(&Place) -> String) -> String {
    let mut text = String::new();
    for part in word {
        match part {
            Part::Text(part) if part.is_empty() && word.len() > 1 => {}
            Part::Text(part) => text.push_str(&quote(part)),
            Part::Reach(node) => text.push_str(&quote(&reach(node))),
            Part::Output(name) => {
                // An unset one ends the script instead of vanishing.
                let _ = write!(text, "\"${{{}:?}}\"", variable(name));
            }
        }
    }
    text
}

/// An output's name as a shell variable; names are letters, digits and `._-`.
fn variable(name: &str) -> String {
    let tail: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    format!("OUT_{tail}")
}

/// `text` as one word of a POSIX shell. A NUL, which no shell can hold, is left
/// out.
pub fn quote(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/._-+=:,@%".contains(&b);
    // At the beginning `=` would be taken for more than a character by some shells.
    if !text.is_empty() && text.bytes().all(plain) && !text.starts_with('=') {
        return assignment_safe(text);
    }
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('\'');
    for c in text.chars() {
        match c {
            '\0' => {}
            '\'' => quoted.push_str("'\\''"),
            c => quoted.push(c),
        }
    }
    quoted.push('\'');
    quoted
}

/// `A=b` as a first word would be an assignment, and a reserved word a syntax.
fn assignment_safe(text: &str) -> String {
    const RESERVED: [&str; 16] = [
        "case", "do", "done", "elif", "else", "esac", "fi", "for", "function", "if", "in",
        "select", "then", "time", "until", "while",
    ];
    if text.contains('=') && !text.starts_with('-') || RESERVED.contains(&text) {
        format!("'{text}'")
    } else {
        text.to_owned()
    }
}

/// `text` behind `# ` on one line.
fn comment(text: &str) -> String {
    let clean: String = text.chars().map(|c| if is_plain(c) { c } else { ' ' }).collect();
    format!("# {clean}").trim_end().to_owned()
}

/// Neither a control character nor one that reorders or hides others.
fn is_plain(c: char) -> bool {
    !c.is_control()
        && !matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}')
}

/// The whole plan as a text to read and to type from: for each step a comment and
/// its commands, with the node on which to type them. `reach` says what reaches a node
/// from the operator's machine.
pub fn as_shell<S: Step>(plan: &Plan<S>, reach: &dyn Fn(&Place) -> String) -> String {
    let mut text = String::new();
    let mut put = |line: &str| {
        text.push_str(line);
        text.push('\n');
    };
    put(&comment(&plan.title));
    for fact in &plan.facts {
        put(&comment(&format!("{}: {}", fact.name, fact.text)));
    }
    put(&comment("Stop at the first command that fails."));
    put("set -eu");
    for (id, step) in plan.steps() {
        let about = step.describe();
        put("");
        if let Some(last) = &plan.last_free_return
            && id.step == 1
            && id.stage == last.before_stage
        {
            put(&comment(&format!("No way back by undoing from here: {}", last.why)));
            put(&comment(&format!("instead: {}", last.instead)));
        }
        put(&comment(&format!("{id} {}", about.what)));
        put(&comment(&format!("   because {}", about.reason)));
        let commands = step.shell();
        if commands.is_empty() {
            put(&comment("   nothing to type"));
        }
        let mut at: Option<&Option<Place>> = None;
        for command in &commands {
            if at != Some(&command.node) {
                let node = command.node.as_ref().map_or("the operator's machine", Place::as_str);
                put(&comment(&format!("   on {node}:")));
                at = Some(&command.node);
            }
            if let Some(note) = &command.note {
                put(&comment(&format!("   note: {note}")));
            }
            put(&command.line_to(reach));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::process::Command as Process;

    use proptest::prelude::*;

    use super::*;

    /// What `sh` takes for the words of `line`, which begins with a program that
    /// prints each argument and a NUL.
    fn words(line: &str) -> Vec<String> {
        let out = Process::new("sh").args(["-c", line]).env_clear().output().unwrap();
        assert!(out.status.success(), "{line:?}: {}", String::from_utf8_lossy(&out.stderr));
        let text = String::from_utf8(out.stdout).unwrap();
        let mut words: Vec<String> = text.split('\0').map(str::to_owned).collect();
        assert_eq!(words.pop().as_deref(), Some(""), "{text:?}");
        words
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn sh_reads_back_what_was_quoted(
            given in prop::collection::vec("[^\\x00]{0,12}|[ '\"$`\\\\\n!*?~#;&|<>(){}\\[\\]=-]{0,8}", 1..12),
        ) {
            let mut command = Command::new(None, ["printf", "%s\\0"]);
            command.words.extend(given.iter().map(|word| vec![Part::Text(word.clone())]));
            prop_assert_eq!(words(&command.line()), given);
        }

        #[test]
        fn sh_reads_back_input_and_outputs(input in "[^\\x00]{0,40}", value in "[^\\x00\n]{0,20}[^\\x00\n]") {
            let cat = Command::new(None, ["cat"]).input(&input);
            let line = format!("{}; printf '\\0'", cat.line());
            prop_assert_eq!(words(&line), vec![input]);
            let give = Command::new(None, ["printf", "%s", &value]).gives("member-id.k1");
            let take = Command::new(None, ["printf", "%s\\0"]).with_output("--id=", "member-id.k1");
            prop_assert_eq!(words(&format!("{}\n{}", give.line(), take.line())), vec![format!("--id={value}")]);
        }

        #[test]
        fn a_comment_is_one_line_whatever_it_says(text in "\\PC{0,10}[\n\r\u{85}\u{2028}]\\PC{0,10}") {
            let line = comment(&text);
            prop_assert!(line.starts_with('#') && line.lines().count() == 1, "{:?}", line);
            prop_assert_eq!(words(&format!("{line}\nprintf 'x\\0'")), vec!["x".to_owned()]);
        }
    }

    #[test]
    fn the_first_word_stays_a_command() {
        for word in ["if", "A=b", "-x", "", "for", "~root", "{", "!"] {
            let line = format!("printf '%s\\0' {}", quote(word));
            assert_eq!(words(&line), [word]);
        }
        assert_eq!(quote("A=b"), "'A=b'");
        assert_eq!(quote("--name=k1"), "--name=k1");
        assert_eq!(quote("if"), "'if'");
    }

    #[test]
    fn a_node_is_reached_as_the_operator_reaches_it() {
        let node = Place::new("k1").unwrap();
        let copy = Command::new(None, ["scp", "a b"]).to(&node, "/root/a b");
        assert_eq!(copy.line(), "scp 'a b' k1':/root/a b'");
        assert_eq!(copy.line_to(&|_| "op@10.0.0.1".into()), "scp 'a b' op@10.0.0.1':/root/a b'");
        assert_eq!(words(&copy.line().replace("scp", "printf '%s\\0'"))[1], "k1:/root/a b");
    }

    #[test]
    fn an_output_that_is_not_set_ends_the_script() {
        let take = Command::new(None, ["echo"]).with_output("", "id");
        let out = Process::new("sh").args(["-c", &take.line()]).env_clear().output().unwrap();
        assert!(!out.status.success());
        assert!(out.stdout.is_empty());
    }
}
