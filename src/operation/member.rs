//! `member list` and what changes the membership: add, remove, repair, promote, update;
//! `defrag` and `move-leader`.
//!
//! - The arithmetic of the quorum ([`quorum`]) comes first: what would leave the cluster
//!   without one is refused, whatever etcd itself would say.
//! - What touches a node is a plan ([`planner`]), journaled as any other.
//! - The leader goes last, or hands over first: clients see no election.

pub mod defrag;
pub mod direct;
pub mod leader;
pub mod list;
pub mod live;
pub mod planner;
pub mod prepare;
pub mod quorum;

use std::path::PathBuf;

use crate::operation::failure::{Failure, FailureKind};
use crate::operation::step::{MemberNow, Step, aside};
use crate::plan::Plan;

/// Where data is that a plan set aside: nodes and paths.
pub fn kept(plan: &Plan<Step>) -> Vec<(String, PathBuf)> {
    let of_step = |step: &Step| match step {
        Step::SetAside { node, paths } => paths
            .iter()
            .map(|path| (node.to_string(), aside::place_of(path, plan.id)))
            .collect::<Vec<_>>(),
        _ => Vec::new(),
    };
    plan.steps().flat_map(|(_, step)| of_step(step)).collect()
}

/// The member that a person names: by its name, or by its id as etcd writes it.
pub fn find<'a>(
    members: &'a [MemberNow],
    text: &str,
    what: &str,
) -> Result<&'a MemberNow, Failure> {
    let by_name: Vec<&MemberNow> = members.iter().filter(|it| it.name == text).collect();
    let id = text.strip_prefix("0x").unwrap_or(text).to_ascii_lowercase();
    let by_id = members.iter().find(|it| it.id == id);
    match (by_name.as_slice(), by_id) {
        ([only], _) => Ok(only),
        ([], Some(member)) => Ok(member),
        ([], None) => Err(Failure::new(FailureKind::Usage, format!("{what}: no member {text:?}"))
            .state("everything is as it was")
            .hint(format!("the members are {}", labels(members)))),
        (several, _) => {
            let ids: Vec<&str> = several.iter().map(|it| it.id.as_str()).collect();
            let why = format!("{what}: {} members are called {text}", several.len());
            Err(Failure::new(FailureKind::Usage, why)
                .state("everything is as it was")
                .hint(format!("name it by its id: {}", ids.join(", "))))
        }
    }
}

/// `k1, k2, 8e9e05c52164694d (never started)`.
fn labels(members: &[MemberNow]) -> String {
    let label = |member: &MemberNow| match member.name.is_empty() {
        true => format!("{} (never started)", member.id),
        false => member.name.clone(),
    };
    members.iter().map(label).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str, id: &str) -> MemberNow {
        MemberNow {
            id: id.into(),
            name: name.into(),
            peer_urls: Vec::new(),
            client_urls: Vec::new(),
            is_learner: false,
            answer: Err("silent".into()),
        }
    }

    #[test]
    fn members_by_name_and_id() {
        let members =
            [member("k1", "a1"), member("k2", "b2"), member("", "c3"), member("k2", "d4")];
        let id = |text| find(&members, text, "nothing was removed").map(|it| it.id.clone());
        assert_eq!(id("k1").unwrap(), "a1");
        assert_eq!(id("c3").unwrap(), "c3");
        assert_eq!(id("0xC3").unwrap(), "c3");
        let two = id("k2").unwrap_err();
        assert_eq!(two.hint.unwrap(), "name it by its id: b2, d4");
        let none = id("k9").unwrap_err();
        assert_eq!(none.hint.unwrap(), "the members are k1, k2, c3 (never started), k2");
    }
}
