//! What a node's answers are held against before anyone sees them. Pure.
//!
//! Names and paths that something is later done with are checked here; texts that
//! are only shown are rid of control characters. A process's arguments and
//! environment are given on as they are.

use std::path::{Component, Path};

use crate::node::{
    Container, Entry, Facts, HealthAnswer, MemberRemains, Mount, NodeError, NodeName, Reach,
    RecoveredMember, Unit,
};

/// `text` on one line without control characters, `limit` characters at most.
pub(crate) fn clean(text: &str, limit: usize) -> String {
    let hostile = |c: char| {
        c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().take(limit).map(|c| if hostile(c) { ' ' } else { c }).collect()
}

/// A failure that the node reports, under the name that it has here.
pub(crate) fn foreign_error(node: &NodeName, error: NodeError) -> NodeError {
    NodeError {
        node: node.clone(),
        kind: error.kind,
        act: clean(&error.act, 1000),
        why: clean(&error.why, 4000),
        details: error.details.iter().take(200).map(|line| clean(line, 2000)).collect(),
        hint: error.hint.map(|hint| clean(&hint, 1000)),
    }
}

pub(crate) fn facts(mut facts: Facts) -> Result<Facts, String> {
    let machine = facts.machine_id.as_deref();
    if machine.is_some_and(|id| !word(id, "", 64)) {
        return Err("its machine id is none".to_owned());
    }
    if !word(&facts.boot_id, "-", 64) || !word(&facts.arch, "_-.", 64) {
        return Err("its boot id or architecture is none".to_owned());
    }
    if facts.addresses.len() > 4096 {
        return Err("it has more addresses than can be".to_owned());
    }
    facts.hostname = clean(&facts.hostname, 255);
    facts.os = clean(&facts.os, 255);
    facts.version = clean(&facts.version, 64);
    Ok(facts)
}

/// What is left of a member: numbers are the node's word, texts are shown.
pub(crate) fn remains(mut found: MemberRemains) -> Result<MemberRemains, String> {
    let tidy = |texts: &mut Vec<String>| {
        texts.truncate(200);
        for text in texts {
            *text = clean(text, 2000);
        }
    };
    let left = &mut found.remains;
    tidy(&mut left.problems);
    if let Some(log) = &mut left.log {
        log.problem = log.problem.as_deref().map(|problem| clean(problem, 2000));
    }
    if let Some(database) = &mut left.database {
        tidy(&mut database.problems);
        let content = &mut database.content;
        for text in [
            &mut content.cluster_version,
            &mut content.storage_version,
            &mut content.downgrade_target,
        ] {
            *text = text.as_deref().map(|text| clean(text, 64));
        }
        for member in &mut content.members {
            member.name = clean(&member.name, 255);
        }
    }
    Ok(found)
}

/// What became of remains.
pub(crate) fn recovered(mut found: RecoveredMember) -> Result<RecoveredMember, String> {
    if found.revision < 0 {
        return Err("its revision is below zero".to_owned());
    }
    found.etcd = found.etcd.as_deref().map(|version| clean(version, 64));
    Ok(found)
}

/// What stands at `path`, which is what was asked for.
pub(crate) fn entry(mut entry: Entry, path: &Path) -> Result<Entry, String> {
    if entry.path != path {
        return Err(format!("it is of {}", entry.path.display()));
    }
    path.clone_into(&mut entry.path);
    attributes(&entry)?;
    Ok(entry)
}

/// What stands in `path`: plain names, in order, each once.
pub(crate) fn entries(mut entries: Vec<Entry>, path: &Path) -> Result<Vec<Entry>, String> {
    for entry in &mut entries {
        let name = entry.path.file_name().filter(|_| entry.path.parent() == Some(path));
        let name = name.ok_or_else(|| format!("{} is not in it", entry.path.display()))?;
        entry.path = path.join(name);
        attributes(entry)?;
    }
    let ordered = |pair: &[Entry]| {
        let bytes = |entry: &Entry| entry.path.as_os_str().as_encoded_bytes().to_owned();
        bytes(&pair[0]) < bytes(&pair[1])
    };
    if entries.windows(2).all(ordered) {
        Ok(entries)
    } else {
        Err("its names are not in order".to_owned())
    }
}

fn attributes(entry: &Entry) -> Result<(), String> {
    let names = [&entry.attributes.owner, &entry.attributes.group];
    let bad = names.into_iter().flatten().any(|name| !word(name, "._-$@\\+ ", 256));
    if bad || entry.attributes.mode > 0o7777 {
        return Err(format!("owner, group or mode of {} is none", entry.path.display()));
    }
    Ok(())
}

pub(crate) fn mounts(mounts: Vec<Mount>) -> Result<Vec<Mount>, String> {
    for mount in &mounts {
        if !plain(&mount.point) || clean(&mount.fs_type, 256) != mount.fs_type {
            return Err(format!("{} is no mount point", mount.point.display()));
        }
    }
    Ok(mounts)
}

pub(crate) fn unit(unit: Option<Unit>) -> Result<Option<Unit>, String> {
    let Some(unit) = unit else { return Ok(None) };
    if !unit_name(&unit.name) {
        return Err(format!("{} is no unit's name", unit.name));
    }
    let states =
        [&unit.load_state, &unit.active_state, &unit.sub_state, &unit.file_state, &unit.result];
    if states.into_iter().any(|state| !(state.is_empty() || word(state, "-_", 64))) {
        return Err(format!("a state of {} is none", unit.name));
    }
    if !(unit.invocation.is_empty() || word(&unit.invocation, "-", 64)) {
        return Err(format!("the invocation of {} is none", unit.name));
    }
    let mut files = unit.fragment.iter().chain(&unit.drop_ins);
    match files.find(|file| !plain(file)) {
        Some(file) => Err(format!("{} is no unit's file", file.display())),
        None => Ok(Some(unit)),
    }
}

pub(crate) fn units(names: Vec<String>) -> Result<Vec<String>, String> {
    match names.iter().find(|name| !unit_name(name)) {
        Some(name) => Err(format!("{name} is no unit's name")),
        None => Ok(names),
    }
}

pub(crate) fn containers(containers: Vec<Container>) -> Result<Vec<Container>, String> {
    for container in &containers {
        let names = [&container.name, &container.pod, &container.namespace, &container.pod_uid];
        let good = names.into_iter().all(|name| name.is_empty() || word(name, "._-", 253));
        if !good
            || !word(&container.id, "._-", 128)
            || clean(&container.image, 4096) != container.image
        {
            return Err("a container's id or name is none".to_owned());
        }
    }
    Ok(containers)
}

pub(crate) fn reach(mut found: Vec<Reach>, asked: &[String]) -> Result<Vec<Reach>, String> {
    let mut left: Vec<&String> = asked.iter().collect();
    for reach in &mut found {
        let at = left.iter().position(|address| **address == reach.address);
        let at = at.ok_or("it is of an address that was not asked for")?;
        left.swap_remove(at);
        reach.error = reach.error.take().map(|error| clean(&error, 1000));
    }
    if left.is_empty() { Ok(found) } else { Err("an address is missing".to_owned()) }
}

pub(crate) fn health(answer: HealthAnswer) -> Result<HealthAnswer, String> {
    Ok(match answer {
        HealthAnswer::Answered { status, text } => {
            // Line by line, as it is shown.
            let lines = text.lines().take(200).map(|line| clean(line, 1000));
            HealthAnswer::Answered { status, text: lines.collect::<Vec<_>>().join("\n") }
        }
        HealthAnswer::Silent { why } => HealthAnswer::Silent { why: clean(&why, 1000) },
    })
}

fn unit_name(name: &str) -> bool {
    // `-.mount` is a unit; anything else with a hyphen in front would be an option.
    let option = name.starts_with('-') && !name.starts_with("-.");
    word(name, ":_.\\@-", 255) && !option && name.contains('.')
}

/// Letters, digits and `more`, at least one and at most `limit`.
fn word(text: &str, more: &str, limit: usize) -> bool {
    let good = |c: char| c.is_alphanumeric() || more.contains(c);
    !text.is_empty() && text.len() <= limit && text.chars().all(good)
}

/// Absolute, and no part of it leads back up.
fn plain(path: &Path) -> bool {
    path.is_absolute() && !path.components().any(|part| part == Component::ParentDir)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datadir::remains::Remains;
    use crate::node::{Attributes, FileKind, NodeErrorKind};

    fn at(path: &str) -> Entry {
        let attributes = Attributes {
            uid: 0,
            gid: 0,
            owner: Some("root".to_owned()),
            group: None,
            mode: 0o644,
            xattrs: Default::default(),
        };
        Entry {
            path: path.into(),
            kind: FileKind::File,
            size: 0,
            modified: 0,
            attributes,
            target: None,
            mount_point: false,
        }
    }

    #[test]
    fn what_is_told_of_remains_is_shown_without_controls() {
        let problems = vec!["no\x1b[2J log".to_owned(); 500];
        let remains = Remains { log: None, database: None, problems };
        let found = super::remains(MemberRemains { in_use: true, remains }).unwrap();
        assert_eq!(found.remains.problems, vec!["no [2J log"; 200]);
        let made = RecoveredMember {
            size: 1,
            revision: -1,
            served: None,
            etcd: Some("3.6\n.1".to_owned()),
            replayed: 0,
            kept: 0,
            dropped: 0,
        };
        assert!(recovered(made.clone()).is_err());
        let made = recovered(RecoveredMember { revision: 1, ..made }).unwrap();
        assert_eq!(made.etcd.as_deref(), Some("3.6 .1"));
    }

    #[test]
    fn a_listing_holds_plain_names_of_that_directory_alone() {
        let root = Path::new("/etc/kubernetes");
        let good = vec![at("/etc/kubernetes/a"), at("/etc/kubernetes/b\n.yaml")];
        assert_eq!(entries(good.clone(), root), Ok(good));
        for bad in [
            "/etc/shadow",
            "/etc/kubernetes",
            "/etc/kubernetes/..",
            "/etc/kubernetes/a/b",
            "a",
            "/",
        ] {
            assert!(entries(vec![at(bad)], root).is_err(), "{bad}");
        }
        let twice = vec![at("/etc/kubernetes/a"), at("/etc/kubernetes/a")];
        assert!(entries(twice, root).is_err());
        let backwards = vec![at("/etc/kubernetes/b"), at("/etc/kubernetes/a")];
        assert!(entries(backwards, root).is_err());
    }

    #[test]
    fn an_entry_is_of_the_path_that_was_asked_for() {
        assert!(entry(at("/a"), Path::new("/a")).is_ok());
        assert!(entry(at("/b"), Path::new("/a")).is_err());
        let mut odd = at("/a");
        odd.attributes.mode = 0o100_644;
        assert!(entry(odd, Path::new("/a")).is_err());
        let mut odd = at("/a");
        odd.attributes.owner = Some("root\x1b[2J".to_owned());
        assert!(entry(odd, Path::new("/a")).is_err());
    }

    #[test]
    fn names_that_are_no_units_are_refused() {
        for good in ["etcd.service", "a@b\\x2d.service", "-.mount"] {
            assert!(units(vec![good.to_owned()]).is_ok(), "{good}");
        }
        for bad in ["", "--force", "etcd service", "etcd", "a\n.service", "../x.service/"] {
            assert!(units(vec![bad.to_owned()]).is_err(), "{bad}");
        }
    }

    #[test]
    fn reach_answers_what_was_asked() {
        let reached = |address: &str| Reach { address: address.to_owned(), error: None };
        let asked = ["a:1".to_owned(), "b:2".to_owned()];
        assert!(reach(vec![reached("b:2"), reached("a:1")], &asked).is_ok());
        assert!(reach(vec![reached("a:1")], &asked).is_err());
        assert!(reach(vec![reached("a:1"), reached("a:1")], &asked).is_err());
        assert!(reach(vec![reached("a:1"), reached("c:3")], &asked).is_err());
    }

    #[test]
    fn what_a_program_says_of_its_health_is_cut_and_plain() {
        let text = format!("ok\x1b[2J\n{}\n{}", "x".repeat(5000), "more\n".repeat(1000));
        let Ok(HealthAnswer::Answered { status: 200, text }) =
            health(HealthAnswer::Answered { status: 200, text })
        else {
            panic!("it is an answer");
        };
        assert!(text.starts_with("ok [2J\n"), "{text}");
        assert_eq!((text.lines().count(), text.lines().nth(1).unwrap().len()), (200, 1000));
    }

    #[test]
    fn a_nodes_failure_bears_our_name_for_it_and_no_control_characters() {
        let other = NodeName::new("other").unwrap();
        let ours = NodeName::new("ours").unwrap();
        let mut error =
            NodeError::new(&other, NodeErrorKind::Failed, "start\x1b[2J", "x".repeat(1 << 20));
        error.details = vec!["\u{202e}line\r".to_owned(); 100_000];
        let error = foreign_error(&ours, error);
        assert_eq!((error.node.as_str(), error.act.as_str()), ("ours", "start [2J"));
        assert_eq!((error.why.len(), error.details.len()), (4000, 200));
        assert_eq!(error.details[0], " line ");
    }
}
