//! The command line as it is documented: `docs/cli` is what clap says, every example
//! of the help and every command line of the documentation parses, manual pages and
//! completion scripts are complete.
//!
//! `UPDATE_REFERENCE=1 cargo test --test reference` writes `docs/cli` anew.

#[path = "common/shell.rs"]
mod shell;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command as Process;

use clap::{Arg, Command};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every command with its full name, the program itself first.
fn commands() -> Vec<(String, Command)> {
    fn walk(name: &str, command: &Command, all: &mut Vec<(String, Command)>) {
        all.push((name.to_owned(), command.clone()));
        for sub in
            command.get_subcommands().filter(|sub| sub.get_name() != "help" && !sub.is_hide_set())
        {
            walk(&format!("{name} {}", sub.get_name()), sub, all);
        }
    }
    let mut program = etcdvault::cli::command().term_width(100);
    program.build();
    let mut all = Vec::new();
    walk("etcdvault", &program, &mut all);
    all
}

fn file_name(command: &str) -> String {
    let name = command.trim_start_matches("etcdvault ").replace(' ', "-");
    if command == "etcdvault" { "README.md".to_owned() } else { format!("{name}.md") }
}

fn markdown(text: &str) -> String {
    text.replace('<', "\\<")
}

fn option(arg: &Arg) -> String {
    let value = |arg: &Arg| {
        let names = arg.get_value_names().unwrap_or_default();
        names.iter().map(|name| format!("<{name}>")).collect::<Vec<_>>().join(" ")
    };
    let mut names = Vec::new();
    if arg.is_positional() {
        names.push(value(arg));
    } else {
        let takes = if arg.get_action().takes_values() { value(arg) } else { String::new() };
        if let Some(short) = arg.get_short() {
            names.push(format!("-{short}"));
        }
        if let Some(long) = arg.get_long() {
            names.push(format!("--{long} {takes}").trim_end().to_owned());
        }
    }
    let mut text = format!("- `{}`: ", names.join("`, `"));
    let help = arg.get_long_help().or(arg.get_help());
    text.push_str(&markdown(&help.map(ToString::to_string).unwrap_or_default()));
    let defaults: Vec<_> = arg.get_default_values().iter().map(|v| v.to_string_lossy()).collect();
    if !defaults.is_empty() && arg.get_action().takes_values() {
        let _ = write!(text, " [default: `{}`]", defaults.join(","));
    }
    if let Some(variable) = arg.get_env() {
        let _ = write!(text, " [env: {}]", variable.to_string_lossy());
    }
    text.push('\n');
    let values = arg.get_possible_values();
    if arg.get_action().takes_values() {
        for value in values.iter().filter(|value| !value.is_hide_set()) {
            let help = value.get_help().map(ToString::to_string).unwrap_or_default();
            let _ = writeln!(
                text,
                "  - `{}`{}",
                value.get_name(),
                match help.as_str() {
                    "" => String::new(),
                    help => format!(": {}", markdown(help)),
                }
            );
        }
    }
    text
}

/// The page of a command.
fn page(name: &str, command: &mut Command) -> String {
    let mut text = format!("# {name}\n\n");
    let about = command.get_long_about().or(command.get_about());
    let _ = writeln!(text, "{}\n", markdown(&about.map(ToString::to_string).unwrap_or_default()));
    let usage = command.render_usage().to_string();
    let _ = writeln!(text, "```text\n{}\n```", usage.trim_start_matches("Usage: ").trim_end());
    if command.has_subcommands() {
        text.push_str("\n| command | |\n|---|---|\n");
        for sub in
            command.get_subcommands().filter(|sub| sub.get_name() != "help" && !sub.is_hide_set())
        {
            let full = format!("{name} {}", sub.get_name());
            let about = sub.get_about().map(ToString::to_string).unwrap_or_default();
            let file = file_name(&full);
            let _ = writeln!(text, "| [`{}`]({file}) | {} |", sub.get_name(), markdown(&about));
        }
    }
    let mut groups: Vec<(String, Vec<&Arg>)> = Vec::new();
    for arg in command.get_arguments() {
        let id = arg.get_id().as_str();
        if arg.is_hide_set() || id == "help" || id == "version" {
            continue;
        }
        let heading = match arg.get_help_heading() {
            _ if arg.is_global_set() => "Everywhere",
            Some(heading) => heading,
            None if arg.is_positional() => "Arguments",
            None => "Options",
        };
        match groups.iter_mut().find(|(known, _)| known == heading) {
            Some((_, args)) => args.push(arg),
            None => groups.push((heading.to_owned(), vec![arg])),
        }
    }
    groups.sort_by_key(|(heading, _)| match heading.as_str() {
        "Arguments" => 0,
        "Options" => 1,
        "Everywhere" => 3,
        _ => 2,
    });
    for (heading, args) in groups {
        let _ = writeln!(text, "\n## {heading}\n");
        args.iter().for_each(|arg| text.push_str(&option(arg)));
    }
    if let Some(after) = command.get_after_help() {
        for paragraph in after.to_string().split("\n\n") {
            let mut lines = paragraph.lines();
            let first = lines.next().unwrap_or_default();
            if first.ends_with(':') && paragraph.lines().nth(1).is_some_and(|l| l.starts_with("  "))
            {
                let _ = writeln!(text, "\n## {}\n\n```sh", first.trim_end_matches(':'));
                for line in lines {
                    let _ = writeln!(text, "{}", line.strip_prefix("  ").unwrap_or(line));
                }
                text.push_str("```\n");
            } else {
                let _ = writeln!(text, "\n{}", markdown(paragraph));
            }
        }
    }
    text
}

fn expected_pages() -> BTreeMap<String, String> {
    let mut pages: BTreeMap<String, String> = commands()
        .into_iter()
        .map(|(name, mut command)| (file_name(&name), page(&name, &mut command)))
        .collect();
    let note = "\nThese pages are made from the program's own help by `tests/reference.rs`.\n";
    if let Some(index) = pages.get_mut("README.md") {
        index.push_str(note);
    }
    pages
}

#[test]
fn the_reference_is_what_the_program_says() {
    let directory = root().join("docs/cli");
    let pages = expected_pages();
    assert!(pages.len() > 10, "{:?}", pages.keys());
    let update = std::env::var_os("UPDATE_REFERENCE").is_some();
    let mut stale = Vec::new();
    for (file, page) in &pages {
        let path = directory.join(file);
        if std::fs::read_to_string(&path).is_ok_and(|found| found == *page) {
            continue;
        }
        if update {
            std::fs::create_dir_all(&directory).unwrap();
            std::fs::write(&path, page).unwrap();
        } else {
            stale.push(file.clone());
        }
    }
    for entry in std::fs::read_dir(&directory).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if !pages.contains_key(&name) {
            if update {
                std::fs::remove_file(entry.path()).unwrap();
            } else {
                stale.push(name);
            }
        }
    }
    assert!(
        stale.is_empty(),
        "docs/cli is stale ({}): UPDATE_REFERENCE=1 cargo test --test reference",
        stale.join(", ")
    );
}

/// Parses a call of the program; help and version are no mistakes.
fn parse(words: &[String]) -> Result<(), String> {
    match etcdvault::cli::command().try_get_matches_from(words) {
        Ok(_) => Ok(()),
        Err(error) if !error.use_stderr() => Ok(()),
        Err(error) => Err(format!("{}: {error}", words.join(" "))),
    }
}

#[test]
fn every_command_is_documented_and_its_examples_parse() {
    for (name, command) in commands() {
        assert!(command.get_about().is_some(), "{name} says nothing of itself");
        for arg in command.get_arguments() {
            assert!(arg.get_help().is_some(), "{name} {} says nothing", arg.get_id());
        }
        if command.has_subcommands() && name != "etcdvault" {
            continue;
        }
        let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        let mut examples = 0;
        for line in shell::lines(&after).iter().filter(|line| line.starts_with("  ")) {
            let calls = shell::calls(line);
            assert!(!calls.is_empty(), "{name}: no example is in {line:?}");
            for call in calls {
                parse(&call).unwrap_or_else(|error| panic!("{name}: {error}"));
                examples += 1;
            }
        }
        assert!(examples > 0, "{name} has no example");
    }
}

/// Every Markdown file of the repository that people read.
fn documents() -> Vec<PathBuf> {
    fn walk(directory: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                found.push(path);
            }
        }
    }
    let mut found = vec![root().join("README.md"), root().join("CHANGELOG.md")];
    for directory in ["docs", "systemd", "tests/snapshots"] {
        walk(&root().join(directory), &mut found);
    }
    found
}

/// The command lines in the `sh` and `console` blocks of a document; in `console`
/// blocks they follow a `$`, the rest is output.
fn block_lines(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut blocks = text.split("\n```");
    blocks.next();
    // Every second piece is inside of a block.
    for block in blocks.step_by(2) {
        let (language, body) = block.split_once('\n').unwrap_or((block, ""));
        match language.trim() {
            "sh" => lines.extend(shell::lines(body)),
            "console" => lines.extend(
                shell::lines(body)
                    .into_iter()
                    .filter_map(|line| Some(line.strip_prefix("$ ")?.to_owned())),
            ),
            _ => {}
        }
    }
    lines
}

#[test]
fn every_command_line_of_the_documentation_parses() {
    let mut parsed = 0;
    for path in documents() {
        let text = std::fs::read_to_string(&path).unwrap();
        let shown = path.strip_prefix(root()).unwrap().display();
        for line in block_lines(&text) {
            for call in shell::calls(&line) {
                // Snapshots hold mistakes on purpose.
                let result = parse(&call);
                if !path.starts_with(root().join("tests")) {
                    result.unwrap_or_else(|error| panic!("{shown}: {error}"));
                    parsed += 1;
                }
            }
        }
    }
    assert!(parsed > 40, "only {parsed} command lines were found");
}

/// Every exit code that the program can end with stands in the guide, and the guide's
/// table in the order of the codes.
#[test]
fn exit_codes_are_documented() {
    use etcdvault::cli::exit_code::Exit;
    use etcdvault::operation::FailureKind as Kind;
    let text = std::fs::read_to_string(root().join("docs/guide/exit-codes.md")).unwrap();
    let documented: Vec<u8> = text
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split(' ').next()?.parse().ok())
        .collect();
    assert!(documented.is_sorted(), "{documented:?}");
    let failures = [
        Kind::Error,
        Kind::Usage,
        Kind::NoVault,
        Kind::Busy,
        Kind::Key,
        Kind::Corrupt,
        Kind::Etcd,
        Kind::Storage,
        Kind::Signal(2),
        Kind::Signal(15),
    ];
    let ends = [Exit::Ok, Exit::Partial, Exit::Corrupt].into_iter();
    for exit in ends.chain(failures.into_iter().map(Exit::Failed)) {
        let code = exit.code();
        assert!(documented.contains(&code), "{exit:?} ends with {code}, which is not documented");
    }
}

/// Every field of a snapshot's manifest that the transcripts saw is described.
#[test]
fn the_fields_of_manifests_are_described() {
    let seen = std::fs::read_to_string(root().join("tests/snapshots/json.md")).unwrap();
    let page = std::fs::read_to_string(root().join("docs/format/manifest.md")).unwrap();
    let described: Vec<&str> = page.split('`').skip(1).step_by(2).collect();
    let mut fields = 0;
    for path in seen.lines().filter_map(|line| line.strip_prefix("content.")) {
        let name = path.rsplit('.').find(|name| *name != "0").unwrap_or(path);
        // Raft's own, as stored.
        if path.contains("conf_state.") {
            continue;
        }
        assert!(
            described.iter().any(|code| code == &name || code.contains(&format!("{name}\""))),
            "docs/format/manifest.md does not describe content.{path}"
        );
        fields += 1;
    }
    assert!(fields > 50, "only {fields} were seen");
}

/// What is there and what is to come, as the README and the changelog tell it: every
/// command is named, and none is promised that there is.
#[test]
fn readme_and_changelog_know_every_command() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let changelog = std::fs::read_to_string(root().join("CHANGELOG.md")).unwrap();
    let section = readme.split("## Where it stands").nth(1).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let (today, to_come) = section.split_once("\nTo come").unwrap();
    let words = |text: &str| -> Vec<String> {
        let words = text.split(|c: char| !c.is_alphanumeric() && c != '-' && c != '.');
        words.map(str::to_owned).collect()
    };
    let (today, changelog) = (words(today), words(&changelog));
    // What these do is told as a thing, not by the name.
    let told = |name: &str| {
        match name {
            "init" => "vaults",
            "backup" => "backups",
            "config" => "etcdvault.toml",
            "man" | "completions" => "",
            other => return other.to_owned(),
        }
        .to_owned()
    };
    let mut checked = 0;
    for (name, command) in commands() {
        let own = name.split(' ').skip(1).collect::<Vec<_>>();
        let wanted = match own.as_slice() {
            [only] if !command.has_subcommands() => told(only),
            ["state", sub] => (*sub).to_owned(),
            [group, ..] => told(group),
            [] => continue,
        };
        if wanted.is_empty() {
            continue;
        }
        assert!(today.contains(&wanted), "README.md, \"There today\": no {wanted} for {name}");
        let listed = changelog.contains(&wanted) || changelog.contains(&own.join(" "));
        let there = listed || ["vaults", "backups"].contains(&wanted.as_str());
        assert!(there, "CHANGELOG.md: no {wanted} for {name}");
        checked += 1;
    }
    assert!(checked > 18, "only {checked} were looked at");
    assert!(!to_come.contains("undone"), "plans can be undone today: {to_come}");
    for flag in ["--with-data", "--only", "--as-shell"] {
        assert!(changelog.join(" ").contains(flag), "CHANGELOG.md: no {flag}");
    }
}

/// Wherever somebody is told how long a lock is watched, it is as long as it is.
#[test]
fn how_long_a_lock_is_watched_is_one_number() {
    let known = format!("{} seconds", etcdvault::plan::lock::STILL.as_secs());
    let mut told: Vec<(String, String)> = Vec::new();
    for path in documents() {
        let text = std::fs::read_to_string(&path).unwrap();
        let shown = path.strip_prefix(root()).unwrap().display().to_string();
        told.extend(text.lines().map(|line| (shown.clone(), line.to_owned())));
    }
    for (name, command) in commands() {
        for arg in command.get_arguments() {
            let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
            told.push((name.clone(), help));
        }
    }
    let mut checked = 0;
    let about = |line: &str| {
        line.contains("sign of life") && !line.contains("raises `beat`")
            || line.contains("Asked to take over")
    };
    for (place, line) in told.iter().filter(|(_, line)| about(line)) {
        assert!(line.contains(&known), "{place}: not {known}: {line}");
        checked += 1;
    }
    assert!(checked >= 9, "only {checked} places tell of it");
}

/// Words of prose in backquotes that begin with `etcdvault` name commands and flags
/// that exist.
#[test]
fn commands_and_flags_named_in_prose_exist() {
    let known: BTreeMap<String, Command> = commands().into_iter().collect();
    let mut checked = 0;
    for path in documents() {
        let text = std::fs::read_to_string(&path).unwrap();
        let shown = path.strip_prefix(root()).unwrap().display();
        let prose: String = text.split("\n```").step_by(2).collect();
        for code in prose.split('`').skip(1).step_by(2) {
            let words: Vec<&str> = code.split_whitespace().collect();
            if words.len() < 2 || words[0] != "etcdvault" || words[1] == "COMMAND" {
                continue;
            }
            // There it may be a text in a file.
            if path.starts_with(root().join("docs/format")) {
                continue;
            }
            let two = words.iter().take(3).copied().collect::<Vec<_>>().join(" ");
            let one =
                if words[1].starts_with('-') { "etcdvault".into() } else { words[..2].join(" ") };
            let command = known
                .get(&two)
                .or_else(|| known.get(&one))
                .unwrap_or_else(|| panic!("{shown}: there is no `{code}`"));
            for flag in words.iter().filter_map(|word| word.strip_prefix("--")) {
                let flag = flag.split('=').next().unwrap_or(flag);
                let exists = command.get_arguments().any(|arg| arg.get_long() == Some(flag));
                assert!(exists, "{shown}: `{code}` has no --{flag}");
            }
            checked += 1;
        }
    }
    assert!(checked > 5, "only {checked} were found");
}

/// Links between the documents lead somewhere.
#[test]
fn links_between_documents_lead_somewhere() {
    let mut links = 0;
    for path in documents() {
        let text = std::fs::read_to_string(&path).unwrap();
        let prose: String = text.split("\n```").step_by(2).collect();
        for target in prose.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if target.contains("://") || target.starts_with('#') {
                continue;
            }
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let found = path.parent().unwrap().join(file);
            assert!(found.exists(), "{}: {target} leads nowhere", path.display());
            if !anchor.is_empty() {
                let text = std::fs::read_to_string(&found).unwrap();
                let slug = |heading: &str| -> String {
                    let kept =
                        |c: &char| c.is_alphanumeric() || *c == ' ' || *c == '-' || *c == '_';
                    let text: String = heading.to_lowercase().chars().filter(kept).collect();
                    text.trim().replace(' ', "-")
                };
                let mut headings = text.lines().filter(|line| line.starts_with('#'));
                let exists = headings.any(|line| slug(line.trim_start_matches('#')) == anchor);
                assert!(exists, "{}: {target} has no such heading", path.display());
            }
            links += 1;
        }
    }
    assert!(links > 20, "only {links} were found");
}

fn run(args: &[&str]) -> std::process::Output {
    Process::new(env!("CARGO_BIN_EXE_etcdvault")).args(args).output().unwrap()
}

#[test]
fn manual_pages_are_written_for_every_command() {
    let directory = tempfile::tempdir().unwrap();
    let made = run(&["man", directory.path().to_str().unwrap()]);
    assert!(made.status.success(), "{made:?}");
    for (name, command) in commands() {
        let page = directory.path().join(format!("{}.1", name.replace(' ', "-")));
        let text = std::fs::read_to_string(&page)
            .unwrap_or_else(|error| panic!("{}: {error}", page.display()));
        for section in [".TH", ".SH NAME", ".SH SYNOPSIS", ".SH DESCRIPTION"] {
            assert!(text.contains(section), "{name} lacks {section}");
        }
        for arg in command.get_arguments().filter(|arg| !arg.is_hide_set()) {
            if let Some(long) = arg.get_long() {
                let escaped = long.replace('-', "\\-");
                assert!(text.contains(&escaped), "the manual page of {name} lacks --{long}");
            }
        }
    }
    // A directory that is not there is said, not made.
    let missing = directory.path().join("missing");
    let failed = run(&["man", missing.to_str().unwrap()]);
    assert_eq!(failed.status.code(), Some(1), "{failed:?}");
    assert!(!missing.exists());
}

#[test]
fn completion_scripts_are_complete_and_bash_accepts_its_own() {
    let directory = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let made = run(&["completions", shell]);
        assert!(made.status.success(), "{made:?}");
        let script = String::from_utf8(made.stdout).unwrap();
        for word in ["backup", "data-dir", "endpoint-strategy", "s3-endpoint-url"] {
            assert!(script.contains(word), "the script for {shell} lacks {word}");
        }
        if shell == "bash" {
            let path = directory.path().join("etcdvault.bash");
            std::fs::write(&path, &script).unwrap();
            let checked = Process::new("bash").arg("-n").arg(&path).output().unwrap();
            assert!(checked.status.success(), "{checked:?}");
            // It loads and offers the commands.
            let ask = format!(
                "source '{}'; COMP_WORDS=(etcdvault ba); COMP_CWORD=1; \
                 _etcdvault etcdvault ba etcdvault; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
                path.display()
            );
            let offered = Process::new("bash").arg("-c").arg(ask).output().unwrap();
            assert_eq!(String::from_utf8_lossy(&offered.stdout).trim(), "backup", "{offered:?}");
        }
    }
}
