//! Whole outputs of the program against real servers: what the README and the guide
//! show is what it prints, and the first screen after each common mistake is kept in
//! `tests/snapshots`.
//!
//! `UPDATE_TRANSCRIPTS=1 cargo test --test output` writes what differs into the
//! documents; read the diff before it is committed.

#[path = "common/transcript.rs"]
mod transcript;

macro_rules! transcripts {
    ($($name:ident: $path:literal,)*) => {
        $(#[tokio::test]
        async fn $name() {
            transcript::play($path).await;
        })*

        #[test]
        fn every_transcript_is_played() {
            let mut played = vec![$($path),*];
            played.sort_unstable();
            assert_eq!(transcript::documents(&["docs/guide", "tests/snapshots"]), played);
        }
    };
}

transcripts! {
    readme: "README.md",
    backup: "docs/guide/backup.md",
    getting_started: "docs/guide/getting-started.md",
    inspect_verify: "docs/guide/inspect-verify.md",
    restore: "docs/guide/restore.md",
    vault: "docs/guide/vault.md",
    json: "tests/snapshots/json.md",
    members_that_die: "tests/snapshots/cluster.md",
    mistakes: "tests/snapshots/mistakes.md",
}
