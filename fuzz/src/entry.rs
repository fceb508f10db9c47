//! What is fuzzed: one function for each parser of foreign bytes. The fuzz
//! targets and the test that runs the kept corpus call the same ones. None may
//! panic, and where two readers see the same bytes they must agree.

#![allow(dead_code, reason = "each target uses one of these")]

use etcdvault::bbolt::Database;
use etcdvault::datadir::hash::{Scan, ScanOptions, StreamScan, two_pass};
use etcdvault::datadir::schema::{Content, KeyValue, Lease, RecordKey, Role, User};

/// Entries that a cursor is followed for: hostile trees can be large.
const STEPS: usize = 100_000;

/// The random-access reader: metas, check, cursors both ways, seeks.
pub(crate) fn bbolt(bytes: &[u8]) {
    let Ok(database) = Database::open(bytes) else { return };
    let sound = database.check().problems.is_empty();
    let names = match database.root().buckets() {
        Ok(names) => names,
        Err(error) => {
            assert!(!sound, "a sound tree reads: {error}");
            return;
        }
    };
    for name in names.iter().take(20) {
        let Ok(Some(bucket)) = database.bucket(name) else { continue };
        let mut cursor = bucket.cursor();
        let (mut steps, mut key) = (0, Vec::new());
        while steps < STEPS {
            match cursor.next() {
                Ok(Some(entry)) => {
                    assert!(!sound || entry.key > key.as_slice(), "a sound tree ascends");
                    key = entry.key.to_vec();
                }
                Ok(None) => break,
                Err(error) => {
                    assert!(!sound, "a sound tree reads: {error}");
                    break;
                }
            }
            steps += 1;
        }
        if sound && steps > 0 && steps < STEPS {
            let last = cursor.last().ok().flatten().map(|entry| entry.key.to_vec());
            assert_eq!(last.as_deref(), Some(key.as_slice()));
            let found = cursor.seek(&key).ok().flatten().map(|entry| entry.key.to_vec());
            assert_eq!(found, Some(key));
        }
        for _ in 0..100 {
            if !matches!(cursor.prev(), Ok(Some(_))) {
                break;
            }
        }
    }
}

/// The forward scan, whole and in chunks, against the scan by random access
/// and the two-pass rule.
pub(crate) fn scan(bytes: &[u8]) {
    let options = || ScanOptions { max_run: 1 << 20, ..ScanOptions::default() };
    let run = |chunk: usize| -> Option<Scan> {
        let mut scan = StreamScan::new(options());
        for part in bytes.chunks(chunk) {
            scan.write(part).ok()?;
        }
        scan.finish().ok()
    };
    let (whole, parts) = (run(bytes.len().max(1)), run(777));
    assert_eq!(whole.is_some(), parts.is_some(), "chunks make no difference");
    let database = Database::open(bytes);
    assert_eq!(whole.is_some(), database.is_ok(), "both readers open the same files");
    let (Some(whole), Some(parts), Ok(database)) = (whole, parts, database) else { return };
    let Ok(direct) = Scan::of(&database, options()) else { return };
    assert_eq!(whole.is_sound(), parts.is_sound());
    if whole.is_sound() {
        assert!(direct.is_sound(), "{:?}", direct.problems);
        assert!(database.check().problems.is_empty(), "{:?}", database.check().problems);
        assert_eq!(whole.status_hash, direct.status_hash);
        assert_eq!(whole.content, direct.content);
    }
    let revision = whole.revision;
    let compact = whole.content.compact_revision();
    for (at, compact) in [(0, compact), (revision / 2, None), (revision.max(0), Some(revision / 2))]
    {
        let hash = whole.hash_kv(at, compact).ok();
        assert_eq!(hash, parts.hash_kv(at, compact).ok(), "chunks make no difference");
        if let Some(hash) = hash {
            assert_eq!(Some(hash), direct.hash_kv(at, compact).ok());
            assert_eq!(Some(hash), two_pass(&database, at, compact).ok(), "HashKV({at})");
        }
    }
}

/// The decoders of single keys and values.
pub(crate) fn records(bytes: &[u8]) {
    if let Ok(key) = RecordKey::parse(bytes) {
        assert_eq!(key.to_bytes(), bytes);
    }
    if let Ok(kv) = KeyValue::decode(bytes) {
        assert!(kv.key.len() + kv.value.len() <= bytes.len());
    }
    let _ = Lease::decode(bytes);
    let _ = User::decode(bytes);
    let _ = Role::decode(bytes);
    let mut content = Content::default();
    let at = bytes.iter().position(|&byte| byte == 0xFF).unwrap_or(bytes.len() / 2);
    let (key, value) = bytes.split_at(at.min(bytes.len()));
    for bucket in [
        "meta",
        "lease",
        "auth",
        "authUsers",
        "authRoles",
        "members",
        "members_removed",
        "cluster",
        "alarm",
        "key",
        "other",
    ] {
        let _ = content.add(bucket.as_bytes(), key, value);
        for known in [
            "consistent_index",
            "term",
            "confState",
            "storageVersion",
            "scheduledCompactRev",
            "finishedCompactRev",
            "clusterVersion",
            "downgrade",
            "authEnabled",
            "authRevision",
        ] {
            let _ = content.add(bucket.as_bytes(), known.as_bytes(), bytes);
        }
    }
    assert!(content.revision(None) >= 1);
    let _ = content.version_evidence();
}

/// The write-ahead log.
pub(crate) fn wal(bytes: &[u8]) {
    etcdvault::wal::fuzz(bytes);
}

/// The manifest of a backup, whatever its name.
pub(crate) fn manifest(bytes: &[u8]) {
    let _ = vault::manifest::Manifest::parse(bytes);
}

/// Every reader of a dialect, and edits of what it read.
pub(crate) fn dialect(bytes: &[u8]) {
    etcdvault::dialect::fuzz(bytes);
}

/// The plan to which the seeds of `journal` are bound.
pub(crate) const JOURNALED: &[u8] = b"the plan of the seeds\n";

/// A journal's records: what is read is what was written up to a torn tail, and a
/// writer can go on behind it.
pub(crate) fn journal(bytes: &[u8]) {
    use etcdvault::plan::record::{
        Entry, MAX_RECORDS, Record, Sequence, decode, encode, plan_digest,
    };
    let plan = plan_digest(JOURNALED);
    let Ok(found) = decode(&plan, bytes) else { return };
    assert!(found.end <= bytes.len(), "it ends where there is something");
    let whole = &bytes[..found.end];
    assert_eq!(decode(&plan, whole).as_ref(), Ok(&found), "the tail is no part of it");
    let Some(last) = found.records.last() else { return };
    let Some(run) = last.sequence.run.checked_add(1) else { return };
    let next = Record {
        sequence: Sequence { run, number: 1 },
        time: last.time,
        tool: "fuzz".to_owned(),
        entry: Entry::Stopped,
    };
    let (more, chain) = encode(&found.chain, &next).expect("a small record");
    let longer = [whole, &more].concat();
    if longer.len() <= MAX_RECORDS {
        let again = decode(&plan, &longer).expect("what was read and what was added");
        assert_eq!((again.records.len(), again.chain), (found.records.len() + 1, chain));
        assert_eq!(again.records.last(), Some(&next));
    }
}

/// A plan out of a journal: what is taken is well formed, reads the same when it is
/// written again, and can be shown.
pub(crate) fn plan(bytes: &[u8]) {
    use etcdvault::operation::step::Step;
    use etcdvault::plan::{Plan, PlanHead, shell, table};
    let Ok(plan) = Plan::<Step>::from_bytes(bytes) else { return };
    let head = PlanHead::from_bytes(bytes).expect("the head of what was read whole");
    assert_eq!((&head.id, &head.cluster, &head.nodes), (&plan.id, &plan.cluster, &plan.nodes));
    // Written with other spaces it may be too large.
    if let Ok(again) = plan.to_bytes() {
        assert_eq!(Plan::<Step>::from_bytes(&again).expect("what was written"), plan);
    }
    assert!(!table::rows(&plan).is_empty(), "a plan has steps");
    assert!(
        shell::as_shell(&plan, &|place| place.to_string()).lines().all(|line| !line.contains('\0'))
    );
}
