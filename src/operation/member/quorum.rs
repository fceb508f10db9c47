//! How many members have to answer, now and after a change: row 4 of the procedures.
//!
//! A cluster of n voters works while n/2 + 1 of them do. Learners do not count.

use std::fmt;

/// Voters, and how many of them are well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Voters {
    /// All of them.
    pub all: usize,
    /// Those that answer and follow a leader.
    pub well: usize,
}

impl Voters {
    /// How many are needed.
    pub fn quorum(self) -> usize {
        self.all / 2 + 1
    }

    /// Whether as many are well.
    pub fn works(self) -> bool {
        self.all > 0 && self.well >= self.quorum()
    }

    /// Without one of them.
    #[must_use]
    pub fn without(self, is_well: bool) -> Self {
        Self { all: self.all.saturating_sub(1), well: self.well.saturating_sub(is_well.into()) }
    }

    /// With one more.
    #[must_use]
    pub fn with(self, is_well: bool) -> Self {
        Self { all: self.all + 1, well: self.well + usize::from(is_well) }
    }
}

impl fmt::Display for Voters {
    /// `2 of 3 voters are needed, 3 are well: 1 can be lost`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { all, well } = *self;
        let quorum = self.quorum();
        let verb = |count: usize| if count == 1 { "is" } else { "are" };
        let plural = if all == 1 { "" } else { "s" };
        write!(
            f,
            "{quorum} of {all} voter{plural} {} needed, {well} {} well: ",
            verb(quorum),
            verb(well)
        )?;
        match well.checked_sub(quorum) {
            None => f.write_str("the cluster takes no writes"),
            Some(0) => f.write_str("none can be lost"),
            Some(spare) => write!(f, "{spare} can be lost"),
        }
    }
}

/// A change of who votes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vote {
    /// A voter goes.
    Goes {
        /// Whether it is well.
        well: bool,
    },
    /// One comes that has not started: it counts, and does not answer.
    Comes,
    /// One comes that runs and is in step.
    ComesInStep,
}

/// The arithmetic of a change: what holds after it, a warning where it comes close, or why
/// it is refused.
pub fn after(now: Voters, vote: Vote) -> Result<(Voters, Option<String>), String> {
    if !now.works() {
        return Err(format!(
            "{now}; without a quorum no membership changes: start the members that do not \
             answer, or restore"
        ));
    }
    match vote {
        Vote::Goes { .. } if now.all == 1 => {
            Err("it is the only voter: without it there is no cluster".to_owned())
        }
        Vote::Goes { well } => {
            let then = now.without(well);
            if then.works() {
                let warning = (then.all == 1)
                    .then(|| "one voter is left: when it is lost, the cluster is".to_owned());
                Ok((then, warning))
            } else {
                Err(format!("after it {then}"))
            }
        }
        Vote::Comes => {
            let then = now.with(false);
            if then.works() {
                Ok((then, None))
            } else if now.all == 1 {
                let warning = "from its adding until it runs the cluster takes no writes: two \
                               voters need both";
                Ok((then, Some(warning.to_owned())))
            } else {
                Err(format!("with one more that does not run yet, {then}"))
            }
        }
        Vote::ComesInStep => {
            let then = now.with(true);
            let warning = (then.all == 2).then(|| {
                "two voters need both: the cluster stops when either is lost; add a third"
                    .to_owned()
            });
            Ok((then, warning))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn voters(all: usize, well: usize) -> Voters {
        Voters { all, well }
    }

    #[test]
    fn quorums() {
        for (all, quorum) in [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (6, 4), (7, 4)] {
            assert_eq!(voters(all, all).quorum(), quorum, "{all}");
        }
        assert!(!voters(0, 0).works());
        assert_eq!(voters(3, 3).to_string(), "2 of 3 voters are needed, 3 are well: 1 can be lost");
        assert_eq!(voters(1, 1).to_string(), "1 of 1 voter is needed, 1 is well: none can be lost");
        assert_eq!(
            voters(3, 1).to_string(),
            "2 of 3 voters are needed, 1 is well: the cluster takes no writes"
        );
    }

    /// Row 4: every case up to five voters. A removal is taken exactly where the rest has
    /// a quorum, and it needs one itself.
    #[test]
    fn row_4_removals() {
        for all in 1..=5 {
            for well in 0..=all {
                let now = voters(all, well);
                for is_well in [true, false] {
                    if is_well && well == 0 || !is_well && well == all {
                        continue;
                    }
                    let then = well - usize::from(is_well);
                    let taken = well > all / 2 && all > 1 && then > (all - 1) / 2;
                    let found = after(now, Vote::Goes { well: is_well });
                    assert_eq!(found.is_ok(), taken, "{now:?} {is_well} {found:?}");
                }
            }
        }
        // Two of three are up: one that is up stays.
        let refused = after(voters(3, 2), Vote::Goes { well: true }).unwrap_err();
        assert!(refused.contains("2 of 2 voters are needed, 1 is well"), "{refused}");
        let (then, warning) = after(voters(3, 2), Vote::Goes { well: false }).unwrap();
        assert_eq!((then, warning), (voters(2, 2), None));
        assert!(after(voters(2, 2), Vote::Goes { well: true }).unwrap().1.is_some());
        let refused = after(voters(3, 1), Vote::Goes { well: false }).unwrap_err();
        assert!(refused.contains("without a quorum"), "{refused}");
    }

    /// Row 4: 1 → 2 is warned of, and one that does not run yet never breaks a quorum that
    /// a third one could keep.
    #[test]
    fn row_4_additions() {
        let (_, warning) = after(voters(1, 1), Vote::Comes).unwrap();
        assert!(warning.unwrap().contains("takes no writes"));
        assert_eq!(after(voters(2, 2), Vote::Comes).unwrap(), (voters(3, 2), None));
        assert!(after(voters(3, 2), Vote::Comes).is_err());
        assert_eq!(after(voters(3, 3), Vote::Comes).unwrap(), (voters(4, 3), None));
        let (then, warning) = after(voters(1, 1), Vote::ComesInStep).unwrap();
        assert_eq!(then, voters(2, 2));
        assert!(warning.unwrap().contains("need both"));
        assert_eq!(after(voters(2, 2), Vote::ComesInStep).unwrap(), (voters(3, 3), None));
        assert!(after(voters(3, 1), Vote::ComesInStep).is_err());
    }
}
