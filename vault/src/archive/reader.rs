//! The tar stream itself, push-style: a state machine over whatever comes.

use std::collections::HashMap;

use super::header::{BLOCK, Extended, Header};
use super::sparse::{Map, MapReader};
use super::{ArchiveError, Entry, EntryKind, Limits, MAX_EXTENDED, MAX_NOTES, MAX_PATH, escape};

type Fault = &'static str;

/// Is told what an archive holds, in the archive's order.
pub trait Visitor {
    /// An entry begins.
    fn entry(&mut self, entry: &Entry) -> Result<(), Fault>;
    /// Content of the entry: `bytes` stand at `offset`. Comes in order; what is left
    /// out is zeros.
    fn content(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Fault>;
    /// The entry has ended.
    fn ended(&mut self) -> Result<(), Fault>;
    /// Something that the writer wanted to say, of no entry in particular.
    fn note(&mut self, text: &str) -> Result<(), Fault>;
}

/// Reads a tar stream in whatever pieces it comes, with bounded memory.
#[derive(Debug)]
pub struct TarReader {
    limits: Limits,
    /// Bytes taken so far.
    at: u64,
    state: State,
    block: Vec<u8>,
    /// Of the headers before the next entry.
    extended: Extended,
    long_path: Option<Vec<u8>>,
    long_target: Option<Vec<u8>>,
    /// What came: files may be linked to, directories hold more.
    seen: HashMap<Vec<u8>, EntryKind>,
    entries: u64,
    /// Bytes of paths and attributes.
    names: u64,
    holes: u64,
    notes: usize,
    current: String,
}

/// The most bytes of all paths, targets and attributes together: whoever keeps an
/// index keeps them in memory.
const MAX_NAMES: u64 = 128 << 20;

#[derive(Debug)]
enum State {
    /// A header block; the number of zero blocks right before it.
    Header { zeros: u8 },
    /// The content of an extended header.
    Special { kind: u8, left: u64, padding: u64, bytes: Vec<u8> },
    /// More of an old GNU map.
    OldMap { entry: Box<Entry>, map: Map, stored: u64 },
    /// The map of a sparse file before its content.
    NewMap { entry: Box<Entry>, reader: MapReader, stored: u64 },
    /// Content: parts still to come, the last first.
    Content { parts: Vec<(u64, u64)>, padding: u64 },
    /// Zeros up to a whole block.
    Padding { left: u64 },
    /// Behind the end: zeros only.
    End,
    /// An error was told.
    Failed,
}

impl TarReader {
    /// A reader at the beginning of a stream.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            at: 0,
            state: State::Header { zeros: 0 },
            block: Vec::with_capacity(BLOCK),
            extended: Extended::default(),
            long_path: None,
            long_target: None,
            seen: HashMap::new(),
            entries: 0,
            names: 0,
            holes: 0,
            notes: 0,
            current: String::new(),
        }
    }

    /// Bytes taken so far.
    pub fn position(&self) -> u64 {
        self.at
    }

    /// Takes the next bytes. After an error nothing more is taken.
    pub fn push(&mut self, bytes: &[u8], visitor: &mut dyn Visitor) -> Result<(), ArchiveError> {
        let pushed = self.take(bytes, visitor);
        pushed.map_err(|why| self.fail(why))
    }

    /// Ends the stream: it must have come to the archive's own end.
    pub fn finish(mut self) -> Result<(), ArchiveError> {
        match self.state {
            State::End => Ok(()),
            State::Failed => Err(self.fail("it was given up before")),
            _ => Err(self.fail("it ends before its end: it was cut short")),
        }
    }

    fn fail(&mut self, why: Fault) -> ArchiveError {
        self.state = State::Failed;
        ArchiveError { at: self.at, path: self.current.clone(), why }
    }

    fn take(&mut self, mut bytes: &[u8], visitor: &mut dyn Visitor) -> Result<(), Fault> {
        while !bytes.is_empty() {
            let taken = self.step(bytes, visitor)?;
            bytes = &bytes[taken..];
            self.at = self.at.saturating_add(taken as u64);
            if self.at > self.limits.stream {
                return Err("it is larger than allowed");
            }
        }
        Ok(())
    }

    /// Takes some of `bytes`, which are not empty, and says how many.
    fn step(&mut self, bytes: &[u8], visitor: &mut dyn Visitor) -> Result<usize, Fault> {
        match &mut self.state {
            State::Content { parts, padding } => {
                let padding = *padding;
                let Some((offset, left)) = parts.last_mut() else {
                    visitor.ended()?;
                    self.state = pad(padding);
                    return Ok(0);
                };
                let taken = within(*left, bytes.len());
                visitor.content(*offset, &bytes[..taken])?;
                *offset += taken as u64;
                *left -= taken as u64;
                if *left == 0 {
                    parts.pop();
                    if parts.is_empty() {
                        visitor.ended()?;
                        self.state = pad(padding);
                    }
                }
                Ok(taken)
            }
            State::Padding { left } => {
                let taken = within(*left, bytes.len());
                *left -= taken as u64;
                if *left == 0 {
                    self.state = State::Header { zeros: 0 };
                }
                Ok(taken)
            }
            State::Special { left, bytes: kept, .. } => {
                let taken = within(*left, bytes.len());
                kept.extend_from_slice(&bytes[..taken]);
                *left -= taken as u64;
                if *left == 0 {
                    self.special(visitor)?;
                }
                Ok(taken)
            }
            State::End if bytes.iter().any(|&byte| byte != 0) => {
                Err("something follows behind its end")
            }
            State::End => Ok(bytes.len()),
            State::Failed => Err("it was given up before"),
            State::Header { .. } | State::OldMap { .. } | State::NewMap { .. } => {
                let taken = bytes.len().min(BLOCK - self.block.len());
                self.block.extend_from_slice(&bytes[..taken]);
                if let Ok(block) = <[u8; BLOCK]>::try_from(&self.block[..]) {
                    self.block.clear();
                    // Positions in errors and entries are those behind this block.
                    self.whole(block, self.at + taken as u64, visitor)?;
                }
                Ok(taken)
            }
        }
    }

    /// A whole block that ends at `at`.
    fn whole(
        &mut self,
        block: [u8; BLOCK],
        at: u64,
        visitor: &mut dyn Visitor,
    ) -> Result<(), Fault> {
        match std::mem::replace(&mut self.state, State::Failed) {
            State::Header { zeros } if block.iter().all(|&byte| byte == 0) => {
                if self.pending() {
                    return Err("an extended header stands before nothing");
                }
                self.current.clear();
                self.state = if zeros == 0 { State::Header { zeros: 1 } } else { State::End };
                Ok(())
            }
            State::Header { zeros: 0 } => self.header(Header::parse(block)?, at, visitor),
            State::Header { .. } => Err("a block of zeros stands between its entries"),
            State::OldMap { entry, mut map, stored } => {
                if map.more(&block)? {
                    self.state = State::OldMap { entry, map, stored };
                    return Ok(());
                }
                self.begin(*entry, Some(map), stored, at, visitor)
            }
            State::NewMap { entry, mut reader, stored } => match reader.block(&block)? {
                None if reader.blocks * BLOCK as u64 >= stored => {
                    Err("the map of a sparse file is longer than what is stored of it")
                }
                None => {
                    self.state = State::NewMap { entry, reader, stored };
                    Ok(())
                }
                Some(map) => {
                    let stored = stored
                        .checked_sub(reader.blocks * BLOCK as u64)
                        .ok_or("the map of a sparse file is longer than what is stored of it")?;
                    self.begin(*entry, Some(map), stored, at, visitor)
                }
            },
            other => {
                self.state = other;
                Ok(())
            }
        }
    }

    fn pending(&self) -> bool {
        self.long_path.is_some() || self.long_target.is_some() || self.extended.path.is_some()
    }

    fn header(&mut self, header: Header, at: u64, visitor: &mut dyn Visitor) -> Result<(), Fault> {
        let kind = header.kind();
        let stored = header.size()?;
        if matches!(kind, b'x' | b'g' | b'L' | b'K') {
            if stored > MAX_EXTENDED {
                return Err("an extended header is too large");
            }
            let padding = padding(stored);
            self.state = State::Special { kind, left: stored, padding, bytes: Vec::new() };
            return if stored == 0 { self.special(visitor) } else { Ok(()) };
        }
        let extended = std::mem::take(&mut self.extended);
        let stored = extended.size.unwrap_or(stored);
        let mut entry = self.entry(&header, &extended)?;
        self.current = escape(&entry.path);
        self.remember(&entry)?;
        if entry.kind != EntryKind::File {
            // Some writers repeat the size of the linked file in a hard link.
            if stored != 0 && entry.kind != EntryKind::HardLink {
                return Err("what is no regular file has content");
            }
            return self.begin(entry, None, 0, at, visitor);
        }
        let real = extended.sparse_size;
        match (kind, extended.sparse_major, &extended.sparse_map) {
            (b'S', ..) => {
                let (map, more, size) = Map::of_header(&header)?;
                entry.size = size;
                entry.sparse = true;
                if more {
                    self.state = State::OldMap { entry: Box::new(entry), map, stored };
                    return Ok(());
                }
                self.begin(entry, Some(map), stored, at, visitor)
            }
            (_, Some(1), _) if extended.sparse_minor == Some(0) => {
                entry.size = real.ok_or("the size of a sparse file is missing")?;
                entry.sparse = true;
                if stored < BLOCK as u64 {
                    return Err("the map of a sparse file is missing");
                }
                let reader = MapReader::default();
                self.state = State::NewMap { entry: Box::new(entry), reader, stored };
                Ok(())
            }
            (_, None, Some(text)) => {
                entry.size = real.ok_or("the size of a sparse file is missing")?;
                entry.sparse = true;
                let map = Map::of_text(text)?;
                self.begin(entry, Some(map), stored, at, visitor)
            }
            (_, None, None) => {
                entry.size = stored;
                self.begin(entry, None, stored, at, visitor)
            }
            _ => Err("a sparse file is stored in a format that is not known"),
        }
    }

    fn entry(&mut self, header: &Header, extended: &Extended) -> Result<Entry, Fault> {
        let kind = match header.kind() {
            b'0' | 0 | b'7' | b'S' => EntryKind::File,
            b'5' => EntryKind::Directory,
            b'2' => EntryKind::Symlink,
            b'1' => EntryKind::HardLink,
            b'3' | b'4' | b'6' => return Err("it holds a device or a pipe"),
            _ => return Err("it holds an entry of a kind that is not known"),
        };
        let long = self.long_path.take();
        let path = extended.sparse_path.clone().or_else(|| extended.path.clone()).or(long);
        let path = clean(&path.unwrap_or_else(|| header.path()), kind)?;
        let target = extended.target.clone().or_else(|| self.long_target.take());
        let target = match kind {
            EntryKind::File | EntryKind::Directory => None,
            EntryKind::Symlink => {
                let target = target.unwrap_or_else(|| header.target().to_vec());
                if target.is_empty() || target.len() > MAX_PATH || target.contains(&0) {
                    return Err("a link leads nowhere");
                }
                Some(target)
            }
            EntryKind::HardLink => {
                Some(clean(&target.unwrap_or_else(|| header.target().to_vec()), kind)?)
            }
        };
        let id = |number: u64| u32::try_from(number).map_err(|_| "an owner's number is too large");
        let name = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(Entry {
            path,
            kind,
            size: 0,
            mode: header.mode()?,
            uid: id(extended.uid.map_or_else(|| header.uid(), Ok)?)?,
            gid: id(extended.gid.map_or_else(|| header.gid(), Ok)?)?,
            owner: name(extended.owner.as_deref().unwrap_or(header.owner())),
            group: name(extended.group.as_deref().unwrap_or(header.group())),
            modified: match extended.modified {
                Some(modified) => modified,
                None => i128::from(header.modified()?) * 1_000_000_000,
            },
            target,
            xattrs: extended.xattrs.clone(),
            sparse: false,
            content_at: 0,
        })
    }

    /// Holds an entry against those that came before.
    fn remember(&mut self, entry: &Entry) -> Result<(), Fault> {
        self.entries += 1;
        if self.entries > self.limits.entries {
            return Err("it holds more entries than allowed");
        }
        let attributes = entry.xattrs.iter().map(|(name, value)| name.len() + value.len());
        let target = entry.target.as_ref().map_or(0, Vec::len);
        self.names += (entry.path.len() + target + attributes.sum::<usize>()) as u64;
        if self.names > MAX_NAMES {
            return Err("its names and attributes are larger than allowed");
        }
        let mut above = &entry.path[..];
        while let Some(slash) = above.iter().rposition(|&byte| byte == b'/') {
            above = &above[..slash];
            // A directory that came needs no look at what lies above it.
            match self.seen.get(above) {
                Some(EntryKind::Directory) => break,
                Some(_) => return Err("it lies below something that is no directory"),
                None => {}
            }
        }
        if entry.kind == EntryKind::HardLink {
            let target = entry.target.as_deref().unwrap_or_default();
            if self.seen.get(target) != Some(&EntryKind::File) {
                return Err("a hard link leads to nothing that came before it");
            }
        }
        if self.seen.insert(entry.path.clone(), entry.kind).is_some() {
            return Err("a path comes twice");
        }
        Ok(())
    }

    /// Content of `stored` bytes begins at `at`.
    fn begin(
        &mut self,
        mut entry: Entry,
        map: Option<Map>,
        stored: u64,
        at: u64,
        visitor: &mut dyn Visitor,
    ) -> Result<(), Fault> {
        entry.content_at = at;
        if entry.size > self.limits.file || stored > self.limits.stream {
            return Err("a file is larger than allowed");
        }
        let mut parts = match map {
            Some(map) => {
                if map.stored != stored {
                    return Err("the parts of a sparse file are not what is stored of it");
                }
                let holes = entry.size.saturating_sub(stored);
                self.holes = self.holes.saturating_add(holes);
                if self.holes > self.limits.holes {
                    return Err("its holes are larger than allowed");
                }
                map.within(entry.size)?
            }
            None if stored == 0 => Vec::new(),
            None => vec![(0, stored)],
        };
        visitor.entry(&entry)?;
        if parts.is_empty() {
            visitor.ended()?;
            self.state = State::Header { zeros: 0 };
            return Ok(());
        }
        parts.reverse();
        self.state = State::Content { parts, padding: padding(stored) };
        Ok(())
    }

    /// An extended header is complete.
    fn special(&mut self, visitor: &mut dyn Visitor) -> Result<(), Fault> {
        let State::Special { kind, padding, bytes, .. } =
            std::mem::replace(&mut self.state, State::Failed)
        else {
            return Ok(());
        };
        let name = || {
            let name = super::header::text(&bytes);
            if name.len() > MAX_PATH { Err("a path is too long") } else { Ok(name.to_vec()) }
        };
        match kind {
            b'L' => self.long_path = Some(name()?),
            b'K' => self.long_target = Some(name()?),
            b'x' => self.extended.read(&bytes)?,
            _ => {
                // What else it says of all entries is not believed.
                let mut global = Extended::default();
                global.read(&bytes)?;
                self.notes += global.comments.len();
                if self.notes > MAX_NOTES {
                    return Err("it holds too many notes");
                }
                for comment in &global.comments {
                    visitor.note(&String::from_utf8_lossy(comment))?;
                }
            }
        }
        self.state = pad(padding);
        Ok(())
    }
}

fn pad(left: u64) -> State {
    if left == 0 { State::Header { zeros: 0 } } else { State::Padding { left } }
}

fn padding(size: u64) -> u64 {
    size.wrapping_neg() % BLOCK as u64
}

/// The smaller of what is left and what there is.
fn within(left: u64, there: usize) -> usize {
    usize::try_from(left).map_or(there, |left| left.min(there))
}

/// A path without the slash in front and, of a directory, at the end.
fn clean(path: &[u8], kind: EntryKind) -> Result<Vec<u8>, Fault> {
    let path = path.strip_prefix(b"/").unwrap_or(path);
    let path = path.strip_prefix(b"./").unwrap_or(path);
    let path = match kind {
        EntryKind::Directory => path.strip_suffix(b"/").unwrap_or(path),
        _ => path,
    };
    if path.len() > MAX_PATH {
        return Err("a path is too long");
    }
    let sound = |part: &[u8]| !matches!(part, b"" | b"." | b"..") && !part.contains(&0);
    if !path.split(|&byte| byte == b'/').all(sound) {
        return Err("a path leads out of the archive, or is none");
    }
    Ok(path.to_vec())
}
