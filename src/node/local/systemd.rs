//! systemd's units, by `systemctl` and `journalctl` with typed properties.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::super::{NodeErrorKind, Unit, UnitAction};
use super::facts;
use super::fault::Fault;

/// At most so much is read of what a program says.
const LIMIT: u64 = 4 << 20;

/// How long a question may take; acts have the deadline of their caller.
const QUESTION: Duration = Duration::from_secs(30);

/// How often a unit is looked at while it is waited for.
const PAUSE: Duration = Duration::from_millis(100);

/// As many of a unit's last lines go into an error.
const LINES: usize = 10;

const PROPERTIES: &str = "Id,LoadState,ActiveState,SubState,UnitFileState,Result,MainPID,\
    FragmentPath,DropInPaths,NeedDaemonReload,InvocationID,ControlGroup,Job,Type,RemainAfterExit";

pub(super) fn unit(name: &str) -> Result<Option<Unit>, Fault> {
    Ok(show(name)?.filter(|shown| shown.unit.load_state != "not-found").map(|shown| shown.unit))
}

/// The names of loaded and installed units that match.
pub(super) fn units(glob: &str) -> Result<Vec<String>, Fault> {
    check_name(glob)?;
    let mut names = std::collections::BTreeSet::new();
    for list in ["list-units", "list-unit-files"] {
        let mut arguments = vec![list, "--no-legend", "--plain", "--full", "--no-pager"];
        if list == "list-units" {
            arguments.push("--all");
        }
        arguments.extend(["--", glob]);
        // Some versions end with 1 when nothing matches; nothing is said then.
        let said = ask("systemctl", &arguments, QUESTION)?;
        if !said.success && !said.errors.trim().is_empty() {
            return Err(failed(&said));
        }
        let first = |line: &str| line.split_ascii_whitespace().next().map(str::to_owned);
        let words = said.output.lines().filter_map(first);
        names.extend(words.filter(|word| word.contains('.')));
    }
    Ok(names.into_iter().collect())
}

pub(super) fn act(name: &str, action: UnitAction, deadline: Duration) -> Result<(), Fault> {
    let until = Instant::now() + deadline;
    if action == UnitAction::DaemonReload {
        let said = ask("systemctl", &["daemon-reload"], deadline)?;
        return if said.success { Ok(()) } else { Err(failed(&said)) };
    }
    let before = show(name)?.filter(|shown| shown.unit.load_state != "not-found");
    let Some(before) = before else {
        return Err(Fault::new(NodeErrorKind::NotFound, "systemd knows no such unit"));
    };
    let verb: &[&str] = match action {
        UnitAction::Start => &["start", "--no-block"],
        UnitAction::Stop => &["stop", "--no-block"],
        UnitAction::Enable => &["enable"],
        UnitAction::Disable => &["disable"],
        UnitAction::ResetFailed => &["reset-failed"],
        UnitAction::DaemonReload => return Ok(()),
    };
    let mut arguments = verb.to_vec();
    arguments.extend(["--", name]);
    let said = ask("systemctl", &arguments, until.saturating_duration_since(Instant::now()))?;
    if !said.success {
        // One that systemd does not hold in memory has not failed.
        if action == UnitAction::ResetFailed && said.errors.contains(" not loaded") {
            return Ok(());
        }
        return Err(with_journal(failed(&said), name));
    }
    match action {
        UnitAction::Start | UnitAction::Stop => wait(name, action, &before, until, deadline),
        _ => Ok(()),
    }
}

/// Waits until a started unit is active, or a stopped one is down and its
/// processes are gone.
fn wait(
    name: &str,
    action: UnitAction,
    before: &Shown,
    until: Instant,
    deadline: Duration,
) -> Result<(), Fault> {
    loop {
        let shown = show(name)?.ok_or_else(|| {
            Fault::new(NodeErrorKind::NotFound, "systemd does not know the unit any more")
        })?;
        match progress(&shown, action, before) {
            Progress::Done if action == UnitAction::Stop && has_processes(&shown.group) => {}
            Progress::Done => return Ok(()),
            Progress::Failed(why) => {
                return Err(with_journal(Fault::new(NodeErrorKind::Failed, why), name));
            }
            Progress::Waiting => {}
        }
        if Instant::now() >= until {
            let unit = &shown.unit;
            let why = format!(
                "it is {} ({}) after {} s",
                unit.active_state,
                unit.sub_state,
                deadline.as_secs()
            );
            return Err(with_journal(Fault::new(NodeErrorKind::Slow, why), name));
        }
        std::thread::sleep(PAUSE);
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Progress {
    Done,
    Waiting,
    Failed(String),
}

/// What `shown` means for what was asked.
fn progress(shown: &Shown, action: UnitAction, before: &Shown) -> Progress {
    let unit = &shown.unit;
    let failed = || {
        Progress::Failed(format!(
            "it is {} ({}), result {}",
            unit.active_state, unit.sub_state, unit.result
        ))
    };
    match (action, unit.active_state.as_str()) {
        (UnitAction::Stop, "inactive" | "failed") if !shown.job => Progress::Done,
        (UnitAction::Stop, _) => Progress::Waiting,
        // Whatever comes next is decided when the job is done.
        (_, "active") if !shown.job => Progress::Done,
        (_, "failed") if !shown.job => failed(),
        (_, "inactive") if !shown.job => {
            let ran = unit.invocation != before.unit.invocation;
            // One that does its work and ends.
            if ran && unit.result == "success" && shown.kind == "oneshot" {
                Progress::Done
            } else {
                failed()
            }
        }
        // It ended and systemd tries again: the first try has failed.
        (_, "activating") if unit.sub_state == "auto-restart" => failed(),
        _ => Progress::Waiting,
    }
}

/// A unit and what only waiting needs.
#[derive(Debug, Clone)]
struct Shown {
    unit: Unit,
    group: String,
    job: bool,
    kind: String,
}

fn show(name: &str) -> Result<Option<Shown>, Fault> {
    check_name(name)?;
    let property = format!("--property={PROPERTIES}");
    let arguments = ["show", "--no-pager", property.as_str(), "--", name];
    let said = ask("systemctl", &arguments, QUESTION)?;
    if !said.success {
        return Err(failed(&said));
    }
    Ok(parse_show(&said.output))
}

/// `Name=value` lines of one unit; `None` without a state.
fn parse_show(text: &str) -> Option<Shown> {
    let mut values = BTreeMap::new();
    for line in text.lines() {
        if let Some((name, value)) = line.split_once('=') {
            values.insert(name, value);
        }
    }
    let text = |name: &str| values.get(name).copied().unwrap_or_default().to_owned();
    values.get("ActiveState")?;
    Some(Shown {
        unit: Unit {
            name: text("Id"),
            load_state: text("LoadState"),
            active_state: text("ActiveState"),
            sub_state: text("SubState"),
            file_state: text("UnitFileState"),
            result: text("Result"),
            main_pid: text("MainPID").parse().unwrap_or(0),
            fragment: Some(text("FragmentPath")).filter(|p| !p.is_empty()).map(PathBuf::from),
            drop_ins: paths(&text("DropInPaths")),
            needs_reload: text("NeedDaemonReload") == "yes",
            invocation: text("InvocationID"),
        },
        group: text("ControlGroup"),
        job: !matches!(text("Job").as_str(), "" | "0"),
        kind: text("Type"),
    })
}

/// The paths of a list: one with a space or the like in it stands in quotes, where
/// a backslash escapes the next character; any other stands as it is.
fn paths(list: &str) -> Vec<PathBuf> {
    let (mut found, mut word, mut quoted) = (Vec::new(), String::new(), false);
    let mut chars = list.chars();
    while let Some(next) = chars.next() {
        match next {
            '"' => quoted = !quoted,
            '\\' if quoted => word.extend(chars.next()),
            next if next.is_ascii_whitespace() && !quoted => {
                found.push(std::mem::take(&mut word));
            }
            next => word.push(next),
        }
    }
    found.push(word);
    found.into_iter().filter(|word| !word.is_empty()).map(PathBuf::from).collect()
}

/// Whether anything runs in a control group, of version 2, else of systemd's own
/// hierarchy. systemd says `inactive` only after its kill; what is left over from
/// `KillMode=process` shows here.
fn has_processes(group: &str) -> bool {
    let relative = group.trim_start_matches('/');
    if relative.is_empty() || relative.split('/').any(|part| part == "..") {
        return false;
    }
    ["/sys/fs/cgroup", "/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified"].iter().any(|root| {
        let place = Path::new(root).join(relative).join("cgroup.procs");
        std::fs::read_to_string(place).is_ok_and(|text| !text.trim().is_empty())
    })
}

/// A name or glob of units, which is never taken for an option.
fn check_name(name: &str) -> Result<(), Fault> {
    let plain = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@*?[]!".contains(c);
    if name.is_empty() || name.len() > 255 || !name.chars().all(plain) || name.starts_with('-') {
        return Err(Fault::unexpected("it is no name of a unit"));
    }
    Ok(())
}

fn with_journal(mut fault: Fault, name: &str) -> Fault {
    let lines = LINES.to_string();
    let arguments = ["-u", name, "-n", lines.as_str(), "-o", "cat", "--no-pager", "-q"];
    // An error without them is better than none.
    if let Ok(said) = ask("journalctl", &arguments, QUESTION) {
        let all: Vec<&str> = said.output.lines().collect();
        let last = &all[all.len().saturating_sub(LINES)..];
        fault.details.extend(last.iter().map(|line| (*line).to_owned()));
    }
    fault
}

fn failed(said: &Said) -> Fault {
    let why = said.errors.trim().lines().next().unwrap_or("it failed without saying why");
    let kind = if why.contains("Access denied") || why.contains("authentication required") {
        NodeErrorKind::Permission
    } else {
        NodeErrorKind::Failed
    };
    Fault::new(kind, why)
}

/// What a program said.
#[derive(Debug)]
struct Said {
    success: bool,
    output: String,
    errors: String,
}

/// Runs one of systemd's programs, and ends it when it takes too long.
fn ask(program: &str, arguments: &[&str], patience: Duration) -> Result<Said, Fault> {
    if !facts::has_systemd() {
        return Err(Fault::unsupported("systemd is not the init of this machine"));
    }
    run(program, arguments, patience)
}

fn run(program: &str, arguments: &[&str], patience: Duration) -> Result<Said, Fault> {
    let mut command = Command::new(program);
    command.args(arguments).env("LC_ALL", "C").env("SYSTEMD_COLORS", "0");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| {
        let mut fault = Fault::from(error);
        fault.why = format!("{program}: {}", fault.why);
        fault
    })?;
    let read = |from: Option<Box<dyn std::io::Read + Send>>| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            if let Some(from) = from {
                // What was read before a failure is what there is to say.
                let _ = from.take(LIMIT).read_to_end(&mut bytes);
            }
            String::from_utf8_lossy(&bytes).into_owned()
        })
    };
    let output = read(child.stdout.take().map(|out| Box::new(out) as _));
    let errors = read(child.stderr.take().map(|out| Box::new(out) as _));
    let until = Instant::now() + patience;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() >= until {
            child.kill()?;
            child.wait()?;
            let why = format!("{program} did not end within {patience:?}");
            return Err(Fault::new(NodeErrorKind::Slow, why));
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let text = |thread: std::thread::JoinHandle<String>| thread.join().unwrap_or_default();
    Ok(Said { success: status.success(), output: text(output), errors: text(errors) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUNNING: &str = "Type=notify\nRemainAfterExit=no\nMainPID=212\nResult=success\n\
        ControlGroup=/system.slice/etcd.service\nId=etcd.service\nLoadState=loaded\n\
        ActiveState=active\nSubState=running\nFragmentPath=/lib/systemd/system/etcd.service\n\
        DropInPaths=/etc/systemd/system/etcd.service.d/10-a.conf \"/run/b c.conf\"\n\
        UnitFileState=enabled\nNeedDaemonReload=yes\nInvocationID=0123abcd\n";

    fn with(changes: &[(&str, &str)]) -> Shown {
        let line = |line: &str| {
            let name = line.split_once('=').unwrap().0;
            let change = changes.iter().find(|change| change.0 == name);
            change.map_or(line.to_owned(), |(name, value)| format!("{name}={value}"))
        };
        let text: Vec<String> = RUNNING.lines().map(line).collect();
        let job = changes.iter().filter(|c| c.0 == "Job").map(|c| format!("\nJob={}", c.1));
        parse_show(&(text.join("\n") + &job.collect::<String>())).unwrap()
    }

    #[test]
    fn properties_are_read() {
        let shown = with(&[]);
        let drop_ins = ["/etc/systemd/system/etcd.service.d/10-a.conf", "/run/b c.conf"];
        assert_eq!(
            shown.unit,
            Unit {
                name: "etcd.service".to_owned(),
                load_state: "loaded".to_owned(),
                active_state: "active".to_owned(),
                sub_state: "running".to_owned(),
                file_state: "enabled".to_owned(),
                result: "success".to_owned(),
                main_pid: 212,
                fragment: Some("/lib/systemd/system/etcd.service".into()),
                drop_ins: drop_ins.iter().map(PathBuf::from).collect(),
                needs_reload: true,
                invocation: "0123abcd".to_owned(),
            }
        );
        assert_eq!((shown.group.as_str(), shown.job), ("/system.slice/etcd.service", false));
        assert!(parse_show("").is_none());
    }

    #[test]
    fn waiting_ends_when_it_must() {
        use UnitAction::{Start, Stop};
        let before = with(&[("ActiveState", "inactive")]);
        let is = |action, changes: &[(&str, &str)]| progress(&with(changes), action, &before);
        assert_eq!(is(Start, &[]), Progress::Done);
        assert_eq!(is(Start, &[("Job", "17")]), Progress::Waiting);
        assert_eq!(is(Start, &[("ActiveState", "activating")]), Progress::Waiting);
        let restart = [("ActiveState", "activating"), ("SubState", "auto-restart")];
        assert!(matches!(is(Start, &restart), Progress::Failed(_)));
        let failed = [("ActiveState", "failed"), ("Result", "exit-code"), ("SubState", "failed")];
        let why = "it is failed (failed), result exit-code".to_owned();
        assert_eq!(is(Start, &failed), Progress::Failed(why));
        let inactive = ("ActiveState", "inactive");
        assert!(matches!(is(Start, &[inactive]), Progress::Failed(_)));
        let once = [inactive, ("Type", "oneshot"), ("InvocationID", "other")];
        assert_eq!(is(Start, &once), Progress::Done);
        assert_eq!(is(Stop, &[]), Progress::Waiting);
        assert_eq!(is(Stop, &[("ActiveState", "deactivating")]), Progress::Waiting);
        assert_eq!(is(Stop, &[inactive]), Progress::Done);
        assert_eq!(is(Stop, &failed), Progress::Done);
        assert_eq!(is(Stop, &[inactive, ("Job", "3")]), Progress::Waiting);
    }

    #[test]
    fn no_name_is_taken_for_an_option_or_more() {
        for name in ["etcd.service", "*etcd*.service", "a@b.service", "dev-a\\x2db.device"] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        for name in ["", "-H", "--now", "a b", "a;b", "a\nb", "../x", "$(x)"] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn a_program_that_hangs_is_ended() {
        let fault = run("sleep", &["1000"], Duration::from_millis(50)).unwrap_err();
        assert_eq!(fault.kind, NodeErrorKind::Slow);
        let said = run("sh", &["-c", "echo out; echo err >&2; exit 3"], QUESTION).unwrap();
        assert_eq!(
            (said.success, said.output.as_str(), said.errors.as_str()),
            (false, "out\n", "err\n")
        );
        assert_eq!(
            run("no-such-program", &[], QUESTION).unwrap_err().kind,
            NodeErrorKind::NotFound
        );
    }
}
