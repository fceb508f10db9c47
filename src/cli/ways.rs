//! Commands that are printed to be typed next: complete, with those flags of this run that
//! they take as well.

use std::ffi::{OsStr, OsString};

use clap::ArgMatches;
use clap::parser::ValueSource;

use super::command;
use super::hints::shell_word;

/// What was typed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Typed(Option<ArgMatches>);

/// Flags that say how this run prints, or that are decided anew each time.
const OF_ONE_RUN: [&str; 5] = ["json", "write_out", "quiet", "yes", "take_over_lock"];

impl Typed {
    /// The arguments of this run, the program's name first.
    pub(crate) fn new(args: &[OsString]) -> Self {
        let Ok(mut matches) = command().try_get_matches_from(args) else { return Self(None) };
        while let Some((_, below)) = matches.remove_subcommand() {
            matches = below;
        }
        Self(Some(matches))
    }

    /// `etcdvault NAME ID` with the flags that were typed and that `NAME` has, too.
    pub(crate) fn command(&self, name: &str, id: impl std::fmt::Display) -> String {
        let mut words = vec!["etcdvault".to_owned(), name.to_owned(), id.to_string()];
        let mut root = command();
        root.build();
        let (Some(typed), Some(wanted)) = (&self.0, root.find_subcommand(name)) else {
            return words.join(" ");
        };
        for arg in wanted.get_arguments() {
            let id = arg.get_id().as_str();
            let Some(long) = arg.get_long() else { continue };
            // What this command does not know is an error here, and nothing that was typed.
            let Ok(Some(values)) = typed.try_get_raw(id) else { continue };
            if OF_ONE_RUN.contains(&id) || typed.value_source(id) != Some(ValueSource::CommandLine)
            {
                continue;
            }
            if !arg.get_action().takes_values() {
                words.push(format!("--{long}"));
                continue;
            }
            for value in values {
                words.push(format!("--{long}"));
                words.push(shell_word(&text(value)));
            }
        }
        words.join(" ")
    }
}

fn text(value: &OsStr) -> String {
    value.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(line: &str) -> Typed {
        let args: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        assert!(command().try_get_matches_from(&args).is_ok(), "{line}");
        Typed::new(&args)
    }

    const ID: &str = "01JD3A00000000000000000000";

    #[test]
    fn what_is_printed_is_complete() {
        let run = typed(
            "etcdvault --config ./my.toml state return latest --node n1 --node n2 --yes --json \
             --vault s3://b/p --identity-file id.txt --allow-unencrypted --take-over-lock \
             --force-topology",
        );
        assert_eq!(
            run.command("resume", ID),
            format!(
                "etcdvault resume {ID} --node n1 --node n2 --allow-unencrypted --vault s3://b/p \
                 --identity-file id.txt --config ./my.toml"
            )
        );
        // The way back needs neither vault nor key.
        assert_eq!(
            run.command("rollback", ID),
            format!("etcdvault rollback {ID} --node n1 --node n2 --config ./my.toml")
        );
        let plain = typed("etcdvault state return latest");
        assert_eq!(plain.command("rollback", ID), format!("etcdvault rollback {ID}"));
    }

    #[test]
    fn what_is_printed_is_quoted_for_a_shell() {
        let args = ["etcdvault", "rollback", ID, "--config", "my file.toml"].map(OsString::from);
        let said = Typed::new(&args).command("rollback", ID);
        assert_eq!(said, format!("etcdvault rollback {ID} --config 'my file.toml'"));
    }
}
