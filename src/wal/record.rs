//! The messages inside the log: decoded from either of the two forms that
//! servers write, encoded in the form of etcd 3.4 to 3.6.
//!
//! Those versions generate their messages with non-nullable fields, so zero
//! values are on disk as well; 3.7 leaves unset fields out. A decoder takes
//! both, skips fields it does not know, and never reads past its bytes.
//!
//! Source: `walpb/record.proto`, `raft/raftpb/raft.proto @ v3.5.30`.

/// Bytes that are no such message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// A varint of more than ten bytes, or one that the bytes end in.
    #[error("a varint is cut off or too long")]
    Varint,
    /// A length that reaches past the end.
    #[error("field {field} reaches past the end of the message")]
    Short {
        /// The field's number.
        field: u32,
    },
    /// A wire type that does not exist or does not suit the field.
    #[error("field {field} has wire type {wire}, which does not suit it")]
    Wire {
        /// The field's number.
        field: u32,
        /// The wire type found.
        wire: u8,
    },
    /// Field number zero, or one above the limit.
    #[error("a field number is not possible")]
    FieldNumber,
    /// A record type that no version writes.
    #[error("unknown record type {found}")]
    Kind {
        /// What stands there.
        found: u64,
    },
}

/// What a record holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RecordKind {
    /// [`Metadata`]; the first data record of every file.
    Metadata = 1,
    /// [`Entry`].
    Entry = 2,
    /// [`HardState`].
    HardState = 3,
    /// The running checksum so far; opens every file.
    Crc = 4,
    /// [`SnapshotMark`].
    Snapshot = 5,
}

/// One record of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// What `data` is.
    pub kind: RecordKind,
    /// CRC-32C of the data of all records up to this one.
    pub crc: u32,
    /// The message; absent in a [`RecordKind::Crc`] record.
    pub data: Option<&'a [u8]>,
}

impl<'a> Record<'a> {
    /// Reads a record without its frame. The checksum is not looked at.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, RecordError> {
        let (mut kind, mut crc, mut data) = (0, 0, None);
        for field in Fields(bytes) {
            let field = field?;
            match field.number {
                1 => kind = field.varint()?,
                2 => crc = field.varint()? as u32,
                3 => data = Some(field.bytes()?),
                _ => {}
            }
        }
        let kind = match kind {
            1 => RecordKind::Metadata,
            2 => RecordKind::Entry,
            3 => RecordKind::HardState,
            4 => RecordKind::Crc,
            5 => RecordKind::Snapshot,
            found => return Err(RecordError::Kind { found }),
        };
        Ok(Self { kind, crc, data })
    }

    /// Appends the record, without a frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_varint(out, 1, self.kind as u64);
        put_varint(out, 2, u64::from(self.crc));
        if let Some(data) = self.data {
            put_bytes(out, 3, data);
        }
    }
}

/// Whose log this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Metadata {
    /// The member's id.
    pub member_id: u64,
    /// The cluster's id.
    pub cluster_id: u64,
}

impl Metadata {
    /// Reads the message.
    pub fn parse(bytes: &[u8]) -> Result<Self, RecordError> {
        let mut this = Self { member_id: 0, cluster_id: 0 };
        for field in Fields(bytes) {
            let field = field?;
            match field.number {
                1 => this.member_id = field.varint()?,
                2 => this.cluster_id = field.varint()?,
                _ => {}
            }
        }
        Ok(this)
    }

    /// Appends the message.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_varint(out, 1, self.member_id);
        put_varint(out, 2, self.cluster_id);
    }
}

/// What raft must remember between restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct HardState {
    /// The current term.
    pub term: u64,
    /// The member voted for in this term, 0 if none.
    pub vote: u64,
    /// The highest index known to be committed.
    pub commit: u64,
}

impl HardState {
    /// Reads the message.
    pub fn parse(bytes: &[u8]) -> Result<Self, RecordError> {
        let mut this = Self::default();
        for field in Fields(bytes) {
            let field = field?;
            match field.number {
                1 => this.term = field.varint()?,
                2 => this.vote = field.varint()?,
                3 => this.commit = field.varint()?,
                _ => {}
            }
        }
        Ok(this)
    }

    /// Appends the message.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_varint(out, 1, self.term);
        put_varint(out, 2, self.vote);
        put_varint(out, 3, self.commit);
    }
}

/// The members that vote and learn.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ConfState {
    /// Members that vote.
    pub voters: Vec<u64>,
    /// Members that only follow.
    pub learners: Vec<u64>,
    /// Voters of the configuration that a joint change leaves.
    pub voters_outgoing: Vec<u64>,
    /// Voters that become learners when a joint change ends.
    pub learners_next: Vec<u64>,
    /// Whether a joint change ends by itself.
    pub auto_leave: bool,
}

impl ConfState {
    /// Reads the message; repeated numbers may be packed.
    pub fn parse(bytes: &[u8]) -> Result<Self, RecordError> {
        let mut this = Self::default();
        for field in Fields(bytes) {
            let field = field?;
            match field.number {
                1 => field.repeated(&mut this.voters)?,
                2 => field.repeated(&mut this.learners)?,
                3 => field.repeated(&mut this.voters_outgoing)?,
                4 => field.repeated(&mut this.learners_next)?,
                5 => this.auto_leave = field.varint()? != 0,
                _ => {}
            }
        }
        Ok(this)
    }

    /// Appends the message.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let lists = [&self.voters, &self.learners, &self.voters_outgoing, &self.learners_next];
        for (number, ids) in (1..).zip(lists) {
            for &id in ids {
                put_varint(out, number, id);
            }
        }
        put_varint(out, 5, u64::from(self.auto_leave));
    }
}

/// Says that a snapshot of this index and term is on disk.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SnapshotMark {
    /// Index of the last entry in the snapshot.
    pub index: u64,
    /// That entry's term.
    pub term: u64,
    /// The configuration then; 3.4 and the first record of every log have none.
    pub conf_state: Option<ConfState>,
}

impl SnapshotMark {
    /// Reads the message.
    pub fn parse(bytes: &[u8]) -> Result<Self, RecordError> {
        let mut this = Self::default();
        for field in Fields(bytes) {
            let field = field?;
            match field.number {
                1 => this.index = field.varint()?,
                2 => this.term = field.varint()?,
                3 => this.conf_state = Some(ConfState::parse(field.bytes()?)?),
                _ => {}
            }
        }
        Ok(this)
    }

    /// Appends the message.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_varint(out, 1, self.index);
        put_varint(out, 2, self.term);
        if let Some(conf_state) = &self.conf_state {
            let mut inner = Vec::new();
            conf_state.encode(&mut inner);
            put_bytes(out, 3, &inner);
        }
    }
}

/// What an entry asks raft to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EntryKind {
    /// A request to the store.
    Normal,
    /// A [`ConfChange`].
    ConfChange,
    /// Several membership changes at once; etcd does not write them.
    ConfChangeV2,
    /// A kind of a later version.
    Other(u64),
}

impl EntryKind {
    fn from_raw(raw: u64) -> Self {
        match raw {
            0 => Self::Normal,
            1 => Self::ConfChange,
            2 => Self::ConfChangeV2,
            other => Self::Other(other),
        }
    }

    fn raw(self) -> u64 {
        match self {
            Self::Normal => 0,
            Self::ConfChange => 1,
            Self::ConfChangeV2 => 2,
            Self::Other(raw) => raw,
        }
    }
}

/// One entry of the raft log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    /// What `data` is.
    pub kind: EntryKind,
    /// The term in which a leader made the entry.
    pub term: u64,
    /// Its place in the log.
    pub index: u64,
    /// The request; empty when a leader begins its term.
    pub data: &'a [u8],
}

impl<'a> Entry<'a> {
    /// Reads the message.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, RecordError> {
        let mut this = Self { kind: EntryKind::Normal, term: 0, index: 0, data: &[] };
        for field in Fields(bytes) {
            let field = field?;
            match field.number {
                1 => this.kind = EntryKind::from_raw(field.varint()?),
                2 => this.term = field.varint()?,
                3 => this.index = field.varint()?,
                4 => this.data = field.bytes()?,
                _ => {}
            }
        }
        Ok(this)
    }

    /// Appends the message. Empty data is left out, as etcd does where there is none.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_varint(out, 1, self.kind.raw());
        put_varint(out, 2, self.term);
        put_varint(out, 3, self.index);
        if !self.data.is_empty() {
            put_bytes(out, 4, self.data);
        }
    }
}

/// A change of one member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConfChange<'a> {
    /// Identifies the request that waits for it.
    pub id: u64,
    /// 0 adds a voter, 1 removes, 2 updates, 3 adds a learner.
    pub kind: u64,
    /// The member.
    pub node_id: u64,
    /// etcd's JSON of the member.
    pub context: &'a [u8],
}

impl<'a> ConfChange<'a> {
    /// Reads the message.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, RecordError> {
        let mut this = Self { id: 0, kind: 0, node_id: 0, context: &[] };
        for field in Fields(bytes) {
            let field = field?;
            match field.number {
                1 => this.id = field.varint()?,
                2 => this.kind = field.varint()?,
                3 => this.node_id = field.varint()?,
                4 => this.context = field.bytes()?,
                _ => {}
            }
        }
        Ok(this)
    }

    /// Appends the message.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_varint(out, 1, self.id);
        put_varint(out, 2, self.kind);
        put_varint(out, 3, self.node_id);
        if !self.context.is_empty() {
            put_bytes(out, 4, self.context);
        }
    }
}

/// Appends `value` as a base-128 varint.
pub(crate) fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a varint field, zero or not.
pub(crate) fn put_varint(out: &mut Vec<u8>, field: u32, value: u64) {
    varint(out, u64::from(field) << 3);
    varint(out, value);
}

/// Appends a field of bytes.
pub(crate) fn put_bytes(out: &mut Vec<u8>, field: u32, value: &[u8]) {
    varint(out, u64::from(field) << 3 | 2);
    varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

/// A field as it stands in a message.
struct Field<'a> {
    number: u32,
    value: Value<'a>,
}

enum Value<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    /// Four or eight bytes, which no message here uses.
    Fixed(u8),
}

impl<'a> Field<'a> {
    fn varint(&self) -> Result<u64, RecordError> {
        match self.value {
            Value::Varint(value) => Ok(value),
            _ => Err(self.wrong_wire()),
        }
    }

    fn bytes(&self) -> Result<&'a [u8], RecordError> {
        match self.value {
            Value::Bytes(value) => Ok(value),
            _ => Err(self.wrong_wire()),
        }
    }

    fn repeated(&self, into: &mut Vec<u64>) -> Result<(), RecordError> {
        match self.value {
            Value::Varint(value) => into.push(value),
            Value::Bytes(mut packed) => {
                while !packed.is_empty() {
                    into.push(take_varint(&mut packed)?);
                }
            }
            Value::Fixed(_) => return Err(self.wrong_wire()),
        }
        Ok(())
    }

    fn wrong_wire(&self) -> RecordError {
        let wire = match self.value {
            Value::Varint(_) => 0,
            Value::Bytes(_) => 2,
            Value::Fixed(wire) => wire,
        };
        RecordError::Wire { field: self.number, wire }
    }
}

/// The fields of a message in their order; stops after the first error.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Result<Field<'a>, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = take_field(&mut self.0);
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

fn take_field<'a>(bytes: &mut &'a [u8]) -> Result<Field<'a>, RecordError> {
    let tag = take_varint(bytes)?;
    let wire = (tag & 7) as u8;
    let number = match u32::try_from(tag >> 3) {
        Ok(number) if (1..1 << 29).contains(&number) => number,
        _ => return Err(RecordError::FieldNumber),
    };
    let value = match wire {
        0 => Value::Varint(take_varint(bytes)?),
        1 => {
            take(bytes, 8, number)?;
            Value::Fixed(wire)
        }
        2 => {
            let length = take_varint(bytes)?;
            Value::Bytes(take(bytes, length, number)?)
        }
        5 => {
            take(bytes, 4, number)?;
            Value::Fixed(wire)
        }
        _ => return Err(RecordError::Wire { field: number, wire }),
    };
    Ok(Field { number, value })
}

fn take<'a>(bytes: &mut &'a [u8], length: u64, field: u32) -> Result<&'a [u8], RecordError> {
    let length = usize::try_from(length).map_err(|_| RecordError::Short { field })?;
    let (head, rest) = bytes.split_at_checked(length).ok_or(RecordError::Short { field })?;
    *bytes = rest;
    Ok(head)
}

fn take_varint(bytes: &mut &[u8]) -> Result<u64, RecordError> {
    let mut value = 0;
    for (index, &byte) in bytes.iter().take(10).enumerate() {
        // The tenth byte has room for one bit.
        if index == 9 && byte > 1 {
            break;
        }
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            *bytes = &bytes[index + 1..];
            return Ok(value);
        }
    }
    Err(RecordError::Varint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn zero_values_are_written() {
        let mut out = Vec::new();
        HardState::default().encode(&mut out);
        assert_eq!(out, [0x08, 0, 0x10, 0, 0x18, 0]);
        out.clear();
        ConfState { voters: vec![1, 300], ..ConfState::default() }.encode(&mut out);
        assert_eq!(out, [0x08, 1, 0x08, 0xac, 2, 0x28, 0]);
    }

    #[test]
    fn the_form_of_3_7_and_unknown_fields_are_read() {
        // Only the node id, then a field 15 of bytes and a fixed64 field 16.
        let bytes = [0x18, 7, 0x7a, 2, 9, 9, 0x81, 1, 1, 2, 3, 4, 5, 6, 7, 8];
        let change = ConfChange::parse(&bytes).unwrap();
        assert_eq!(change, ConfChange { id: 0, kind: 0, node_id: 7, context: &[] });
        // Packed voters.
        let state = ConfState::parse(&[0x0a, 3, 1, 0xac, 2]).unwrap();
        assert_eq!(state.voters, [1, 300]);
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let too_long = [0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2];
        assert_eq!(HardState::parse(&too_long), Err(RecordError::Varint));
        assert_eq!(HardState::parse(&[0x08]), Err(RecordError::Varint));
        assert_eq!(HardState::parse(&[0x0a, 0]), Err(RecordError::Wire { field: 1, wire: 2 }));
        assert_eq!(HardState::parse(&[0x0b]), Err(RecordError::Wire { field: 1, wire: 3 }));
        assert_eq!(HardState::parse(&[0x00]), Err(RecordError::FieldNumber));
        assert_eq!(Entry::parse(&[0x22, 5, 1]), Err(RecordError::Short { field: 4 }));
        assert_eq!(Record::parse(&[0x08, 6]), Err(RecordError::Kind { found: 6 }));
        assert_eq!(Record::parse(&[]), Err(RecordError::Kind { found: 0 }));
    }

    proptest! {
        #[test]
        fn entries_survive(kind in 0u64..5, term: u64, index: u64, data: Vec<u8>) {
            let entry = Entry { kind: EntryKind::from_raw(kind), term, index, data: &data };
            let mut out = Vec::new();
            entry.encode(&mut out);
            prop_assert_eq!(Entry::parse(&out).unwrap(), entry);
        }

        #[test]
        fn any_bytes_return(bytes: Vec<u8>) {
            let _ = Record::parse(&bytes);
            let _ = Entry::parse(&bytes);
            let _ = ConfState::parse(&bytes);
        }
    }
}
