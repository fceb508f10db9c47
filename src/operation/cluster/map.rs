//! A backup onto other nodes than it was taken of: which of them stands for which member.
//!
//! - What a person says is held against the backup and the nodes: a name that is in
//!   neither is a mistake.
//! - There may be fewer nodes or more: the nodes' own settings say who the members are.
//! - The cluster that the backup is of is not touched, and that is said.

use std::collections::BTreeSet;

use super::WHAT;
use crate::node::NodeName;
use crate::operation::failure::{Failure, FailureKind};
use crate::operation::preflight::Seen;

/// What a person should know of it; an error where it does not fit.
pub(super) fn mapped(
    seen: &Seen,
    map: &[(String, NodeName)],
) -> Result<Vec<(String, String)>, Failure> {
    let Some(backup) = seen.backup.as_ref().filter(|_| !map.is_empty()) else {
        return Ok(Vec::new());
    };
    let usage = |why: String| {
        Failure::new(FailureKind::Usage, WHAT).detail(why).state("everything is as it was")
    };
    // Up to 3.4 the members may not stand in the database.
    let names = backup.content.members.iter().map(|member| member.name.as_str());
    let was: BTreeSet<&str> = names.filter(|name| !name.is_empty()).collect();
    let is: BTreeSet<&str> = seen
        .nodes
        .iter()
        .filter(|node| node.etcd().is_some())
        .map(|it| it.name().as_str())
        .collect();
    let list = |names: &BTreeSet<&str>| names.iter().copied().collect::<Vec<_>>().join(", ");
    let (mut old, mut new) = (BTreeSet::new(), BTreeSet::new());
    for (member, node) in map {
        if !was.is_empty() && !was.contains(member.as_str()) {
            let why = format!("--map {member}={node}: backup {} has no member {member}", backup.id);
            return Err(usage(why).hint(format!("its members are {}", list(&was))));
        }
        if !is.contains(node.as_str()) {
            let why = format!("--map {member}={node}: {node} is no node with a member");
            return Err(usage(why).hint(format!("those are {}", list(&is))));
        }
        if !old.insert(member.as_str()) || !new.insert(node.as_str()) {
            let why = format!("--map {member}={node}: one of both was named before");
            return Err(usage(why));
        }
    }
    let pairs: Vec<String> = map.iter().map(|(old, new)| format!("{old} by {new}")).collect();
    let mut text = pairs.join(", ");
    let more = |what: &str, names: BTreeSet<&str>, text: &mut String| {
        if !names.is_empty() {
            text.push_str(&format!("; {what}: {}", list(&names)));
        }
    };
    more("nobody stands for", was.difference(&old).copied().collect(), &mut text);
    more("new", is.difference(&new).copied().collect(), &mut text);
    let left = format!(
        "the cluster that the backup is of ({}) is neither stopped nor changed: who uses it goes \
         on there until it is told the new addresses",
        backup.cluster
    );
    Ok(vec![("Stood for".to_owned(), text), ("Not here".to_owned(), left)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operation::preflight::tests::well;

    fn map(pairs: &[(&str, &str)]) -> Vec<(String, NodeName)> {
        let pair = |(old, new): &(&str, &str)| ((*old).to_owned(), NodeName::new(*new).unwrap());
        pairs.iter().map(pair).collect()
    }

    /// The backup is of k1, k2 and k3, and so are the nodes called that are there.
    #[test]
    fn fewer_more_and_others() {
        let mut seen = well();
        assert_eq!(mapped(&seen, &[]).unwrap(), []);
        let text =
            |seen: &Seen, pairs: &[(&str, &str)]| mapped(seen, &map(pairs)).unwrap().remove(0).1;
        let all = [("k1", "k3"), ("k2", "k2"), ("k3", "k1")];
        assert_eq!(text(&seen, &all), "k1 by k3, k2 by k2, k3 by k1");
        assert_eq!(text(&seen, &all[..1]), "k1 by k3; nobody stands for: k2, k3; new: k1, k2");
        seen.nodes.truncate(1);
        assert_eq!(text(&seen, &[("k2", "k1")]), "k2 by k1; nobody stands for: k1, k3");
        let said = mapped(&seen, &map(&[("k2", "k1")])).unwrap().remove(1);
        assert!(said.1.starts_with("the cluster that the backup is of (prod) is neither"));
    }

    #[test]
    fn mistakes_are_refused() {
        let mut seen = well();
        let why = |seen: &Seen, pairs: &[(&str, &str)]| {
            let failure = mapped(seen, &map(pairs)).unwrap_err();
            assert_eq!(failure.kind, FailureKind::Usage);
            failure.details[0].clone()
        };
        assert!(why(&seen, &[("k9", "k1")]).contains("has no member k9"));
        assert!(why(&seen, &[("k1", "k9")]).contains("k9 is no node with a member"));
        assert!(why(&seen, &[("k1", "k1"), ("k1", "k2")]).contains("named before"));
        assert!(why(&seen, &[("k1", "k1"), ("k2", "k1")]).contains("named before"));
        // 3.4 does not keep its members in the database.
        seen.backup.as_mut().unwrap().content.members.clear();
        assert!(mapped(&seen, &map(&[("anybody", "k1")])).is_ok());
    }
}
