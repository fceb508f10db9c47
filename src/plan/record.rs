//! The records of a journal, pure over bytes; `docs/format/journal.md` describes
//! them.
//!
//! What a reader may rely on:
//!
//! - what was cut while it was written ("torn") is told from what was changed
//!   afterwards: the former is dropped, the latter is an error;
//! - a record is bound to every record before it and to its plan, so none can be
//!   taken out, put elsewhere, or come from another plan.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Effect, Outputs, Place, PlanId, StepId, parse_pair};

/// A record is at most so many bytes of JSON.
pub const MAX_RECORD: usize = 64 << 10;

/// A file of records is at most so long.
pub const MAX_RECORDS: usize = 32 << 20;

/// `<length, 8 hex> <CRC-32C of those 8, 8 hex> <chain, 64 hex> `.
const LENGTH: std::ops::Range<usize> = 0..8;
const CHECK: std::ops::Range<usize> = LENGTH.end + 1..LENGTH.end + 1 + 8;
const CHAIN: std::ops::Range<usize> = CHECK.end + 1..CHECK.end + 1 + 64;
const HEADER: usize = CHAIN.end + 1;

/// SHA-256 over a plan's bytes, or over those and the records so far.
pub type Digest32 = [u8; 32];

/// When a record was written: the run, and its number within the run, both from 1.
/// Written `2.17`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Sequence {
    /// The run: one call of execute, resume or rollback.
    pub run: u32,
    /// The number within the run.
    pub number: u32,
}

/// A text that is no sequence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no sequence: it is written as 2.17, run and number")]
pub struct InvalidSequence(String);

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.run, self.number)
    }
}

impl FromStr for Sequence {
    type Err = InvalidSequence;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (run, number) = parse_pair(text).ok_or_else(|| InvalidSequence(text.to_owned()))?;
        Ok(Self { run, number })
    }
}

impl TryFrom<String> for Sequence {
    type Error = InvalidSequence;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Sequence> for String {
    fn from(sequence: Sequence) -> Self {
        sequence.to_string()
    }
}

/// Who runs a plan or holds a lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Owner {
    /// The person, as the operating system names them.
    pub user: String,
    /// The machine.
    pub host: String,
    /// The process there.
    pub pid: u32,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{} (process {})", self.user, self.host, self.pid)
    }
}

/// Which way a run goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// Steps are done.
    Apply,
    /// Steps are taken back, the last first.
    Undo,
}

/// How a plan ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ending {
    /// Every step is done.
    Applied,
    /// Every step that was begun is taken back.
    RolledBack,
}

/// What is recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Entry {
    /// A run begins; on every node before anything else of the run.
    Begun {
        /// Tells runs with the same number apart.
        id: PlanId,
        /// Which way.
        direction: Direction,
        /// Who.
        owner: Owner,
        /// Nodes that could not be reached and are left out knowingly.
        without: Vec<Place>,
    },
    /// The cluster's lock was taken from somebody whose run had died.
    TookOver {
        /// Whose it was.
        from: Owner,
        /// Since when they had held it.
        since: DateTime<Utc>,
    },
    /// A step is about to be done or taken back: durable before it acts.
    Intent {
        /// The step.
        step: StepId,
        /// Which way.
        direction: Direction,
    },
    /// A step is done, and looking at it showed that.
    Applied {
        /// The step.
        step: StepId,
        /// It was done already.
        found: bool,
        /// What it gives to later steps.
        outputs: Outputs,
    },
    /// A step is taken back, and looking at it showed that.
    Undone {
        /// The step.
        step: StepId,
        /// Nothing of it was done, or nothing had to be undone.
        found: bool,
    },
    /// A step failed.
    Failed {
        /// The step.
        step: StepId,
        /// Which way.
        direction: Direction,
        /// Why.
        why: String,
        /// What it did before.
        effect: Effect,
    },
    /// The run was stopped between steps.
    Stopped,
    /// The plan ended.
    Finished {
        /// How.
        ending: Ending,
    },
}

impl Entry {
    /// The step that it is about.
    pub fn step(&self) -> Option<StepId> {
        match self {
            Self::Intent { step, .. }
            | Self::Applied { step, .. }
            | Self::Undone { step, .. }
            | Self::Failed { step, .. } => Some(*step),
            Self::Begun { .. } | Self::TookOver { .. } | Self::Stopped | Self::Finished { .. } => {
                None
            }
        }
    }
}

/// An entry with when and by what it was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Its place in the order of all records of all nodes.
    pub sequence: Sequence,
    /// When, by the clock of the machine that ran the plan.
    pub time: DateTime<Utc>,
    /// What wrote it: `etcdvault 0.1.0`.
    pub tool: String,
    /// What is recorded.
    pub entry: Entry,
}

/// Why records cannot be read. Never a torn tail, which is dropped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("record {number} at byte {offset}: {why}")]
pub struct RecordFault {
    /// Which record, from 1.
    pub number: usize,
    /// Where it begins.
    pub offset: usize,
    /// What is wrong with it.
    pub why: String,
}

/// A record that is too large.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a record of {0} bytes; {MAX_RECORD} are possible")]
pub struct TooLarge(usize);

/// What a file of records holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Records {
    /// The records.
    pub records: Vec<Record>,
    /// Where the last whole record ends: what follows is torn.
    pub end: usize,
    /// The chain there.
    pub chain: Digest32,
}

/// The digest of a plan's bytes: where the chain of its records begins.
pub fn plan_digest(plan: &[u8]) -> Digest32 {
    Sha256::digest(plan).into()
}

fn link(chain: &Digest32, json: &[u8]) -> Digest32 {
    let mut hash = Sha256::new();
    hash.update(chain);
    hash.update(json);
    hash.finalize().into()
}

/// The bytes of `record` behind a file whose chain is `chain`, and the chain after
/// it.
pub fn encode(chain: &Digest32, record: &Record) -> Result<(Vec<u8>, Digest32), TooLarge> {
    // Plain data with text keys: serializing it cannot fail.
    let json = serde_json::to_vec(record).map_err(|_| TooLarge(0))?;
    if json.len() > MAX_RECORD {
        return Err(TooLarge(json.len()));
    }
    let next = link(chain, &json);
    let length = format!("{:08x}", json.len());
    let check = crc32c::crc32c(length.as_bytes());
    let mut bytes = format!("{length} {check:08x} {} ", hex(&next)).into_bytes();
    bytes.extend_from_slice(&json);
    bytes.push(b'\n');
    Ok((bytes, next))
}

/// Reads the records behind the plan with the digest `plan`. The bytes may be
/// anything.
pub fn decode(plan: &Digest32, bytes: &[u8]) -> Result<Records, RecordFault> {
    let mut found = Records { records: Vec::new(), end: 0, chain: *plan };
    if bytes.len() > MAX_RECORDS {
        let why = format!("the file has {} bytes; {MAX_RECORDS} are possible", bytes.len());
        return Err(RecordFault { number: 0, offset: 0, why });
    }
    // A crash can leave a file longer than what was written, with zeros behind; no
    // record holds one.
    let bytes = match bytes.iter().rposition(|byte| *byte != 0) {
        Some(last) => &bytes[..=last],
        None => &[],
    };
    while let Some(rest) = bytes.get(found.end..).filter(|rest| !rest.is_empty()) {
        let number = found.records.len() + 1;
        let fault = |why: String| RecordFault { number, offset: found.end, why };
        let Some((record, size, chain)) = decode_one(&found.chain, rest).map_err(fault)? else {
            break;
        };
        if let Some(last) = found.records.last()
            && last.sequence >= record.sequence
        {
            let why = format!("its sequence {} follows {}", record.sequence, last.sequence);
            return Err(RecordFault { number, offset: found.end, why });
        }
        found.records.push(record);
        found.end += size;
        found.chain = chain;
    }
    Ok(found)
}

/// The first record of `bytes`, its size and the chain behind it; `None` when it
/// is torn.
fn decode_one(chain: &Digest32, bytes: &[u8]) -> Result<Option<(Record, usize, Digest32)>, String> {
    // What there is of the header must be so from the first byte on: then fewer
    // bytes than a record has are a torn one, and not one whose length was changed.
    let Some(length) = bytes.get(LENGTH) else {
        return if bytes.iter().all(is_hex) { Ok(None) } else { Err("it has no length".into()) };
    };
    let size = std::str::from_utf8(length)
        .ok()
        .filter(|text| text.bytes().all(|byte| is_hex(&byte)))
        .and_then(|text| usize::from_str_radix(text, 16).ok())
        .ok_or("it has no length")?;
    let Some(check) = bytes.get(..CHECK.end) else {
        let expected = format!(" {:08x}", crc32c::crc32c(length));
        let rest = &bytes[LENGTH.end..];
        let torn = expected.as_bytes().starts_with(rest);
        return if torn { Ok(None) } else { Err("its length was changed".into()) };
    };
    if check[LENGTH.end..] != *format!(" {:08x}", crc32c::crc32c(length)).as_bytes() {
        return Err("its length was changed".into());
    }
    if size > MAX_RECORD {
        return Err(format!("it has {size} bytes; {MAX_RECORD} are possible"));
    }
    let total = HEADER + size + 1;
    let Some(whole) = bytes.get(..total) else { return Ok(None) };
    let json = &whole[HEADER..total - 1];
    let next = link(chain, json);
    if whole[CHECK.end..HEADER] != *format!(" {} ", hex(&next)).as_bytes() {
        return Err("its digest is not that of its content after the records before it".into());
    }
    if whole[total - 1] != b'\n' {
        return Err("it does not end where its length says".into());
    }
    let record = serde_json::from_slice(json).map_err(|error| format!("not a record: {error}"))?;
    Ok(Some((record, total, next)))
}

fn is_hex(byte: &u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(run: u32, number: u32, entry: Entry) -> Record {
        let time = "2026-11-21T01:02:03.004Z".parse().unwrap();
        Record { sequence: Sequence { run, number }, time, tool: "test 1".into(), entry }
    }

    fn id(text: &str) -> StepId {
        text.parse().unwrap()
    }

    fn sample() -> (Digest32, Vec<Record>, Vec<u8>, Vec<usize>) {
        let plan = plan_digest(b"a plan");
        let owner = Owner { user: "root".into(), host: "k1".into(), pid: 7 };
        let run = "01JD3A00000000000000000000".parse().unwrap();
        let outputs = [("id".to_owned(), "8e9e05c52164694d".to_owned())].into();
        let apply = Direction::Apply;
        let records = vec![
            record(1, 1, Entry::Begun { id: run, direction: apply, owner, without: vec![] }),
            record(1, 2, Entry::Intent { step: id("1.1"), direction: apply }),
            record(1, 4, Entry::Applied { step: id("1.1"), found: false, outputs }),
            record(2, 1, Entry::Finished { ending: Ending::Applied }),
        ];
        let mut bytes = Vec::new();
        let mut chain = plan;
        let mut ends = vec![0];
        for record in &records {
            let (more, next) = encode(&chain, record).unwrap();
            bytes.extend(more);
            ends.push(bytes.len());
            chain = next;
        }
        (plan, records, bytes, ends)
    }

    #[test]
    fn what_was_written_is_read() {
        let (plan, records, bytes, _) = sample();
        let read = decode(&plan, &bytes).unwrap();
        assert_eq!(read.records, records);
        assert_eq!(read.end, bytes.len());
        assert_eq!(decode(&plan, b"").unwrap().records, []);
    }

    /// Wherever the file is cut, and whether zeros follow or not, the whole records
    /// before the cut are read and the rest is dropped.
    #[test]
    fn a_torn_tail_is_dropped_at_every_byte() {
        let (plan, records, bytes, ends) = sample();
        for cut in 0..=bytes.len() {
            let whole = ends.iter().filter(|end| **end <= cut).count() - 1;
            for zeros in [0, 1, 5000] {
                let mut torn = bytes[..cut].to_vec();
                torn.resize(cut + zeros, 0);
                let read = decode(&plan, &torn).unwrap_or_else(|e| panic!("cut at {cut}: {e}"));
                assert_eq!(read.records, records[..whole], "cut at {cut}");
                assert_eq!(read.end, ends[whole], "cut at {cut}");
            }
        }
    }

    /// No flipped bit, anywhere, is read as something else or as a torn tail.
    #[test]
    fn every_flipped_bit_is_found() {
        let (plan, _, bytes, _) = sample();
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << bit;
                let read = decode(&plan, &damaged);
                assert!(read.is_err(), "byte {at} bit {bit}: {read:?}");
            }
        }
    }

    #[test]
    fn records_cannot_be_taken_out_swapped_repeated_or_come_from_another_plan() {
        let (plan, _, bytes, ends) = sample();
        let part = |i: usize| &bytes[ends[i]..ends[i + 1]];
        let all = [part(0), part(1), part(2), part(3)];
        for order in [&[0, 2, 3][..], &[1, 2, 3], &[0, 2, 1, 3], &[0, 1, 1, 2, 3]] {
            let mixed: Vec<u8> = order.iter().flat_map(|i| all[*i].to_vec()).collect();
            assert!(decode(&plan, &mixed).is_err(), "{order:?}");
        }
        assert!(decode(&plan_digest(b"another plan"), &bytes).is_err());
    }

    #[test]
    fn a_sequence_that_does_not_grow_is_found_even_with_right_digests() {
        let (plan, records, ..) = sample();
        let (mut bytes, chain) = encode(&plan, &records[1]).unwrap();
        bytes.extend(encode(&chain, &records[0]).unwrap().0);
        let fault = decode(&plan, &bytes).unwrap_err();
        assert!(fault.why.contains("sequence 1.1 follows 1.2"), "{fault}");
    }

    #[test]
    fn foreign_bytes_are_refused_without_harm() {
        let plan = plan_digest(b"");
        for bytes in [&b"{}\n"[..], b"ffffffff", b"ffffffff 00000000 ", b"\xff\xfe", b"00000001 x"]
        {
            let _ = decode(&plan, bytes);
        }
        let huge = format!("ffffffff {:08x} ", crc32c::crc32c(b"ffffffff"));
        assert!(decode(&plan, huge.as_bytes()).is_err());
    }

    #[test]
    fn numbers_have_one_spelling() {
        for bad in ["", "1", "1.", "0.1", "1.0", "01.1", "+1.1", "1.1.1", "1.4294967296"] {
            assert!(bad.parse::<StepId>().is_err(), "{bad}");
            assert!(bad.parse::<Sequence>().is_err(), "{bad}");
        }
        assert_eq!("12.3".parse::<Sequence>().unwrap(), Sequence { run: 12, number: 3 });
    }
}
