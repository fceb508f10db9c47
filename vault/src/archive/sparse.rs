//! Which parts of a sparse file are stored.

use super::header::{BLOCK, Header, decimal, number};

type Fault = &'static str;

/// The most stored parts of one file.
const MAX_PARTS: usize = 1 << 20;

/// The parts of a file that are stored, in order, none overlapping; what lies
/// between them is zeros.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Map {
    parts: Vec<(u64, u64)>,
    /// Bytes stored in all.
    pub(super) stored: u64,
    end: u64,
}

impl Map {
    /// Adds a part.
    pub(super) fn push(&mut self, offset: u64, size: u64) -> Result<(), Fault> {
        let end = offset.checked_add(size).ok_or("a part of a sparse file is too large")?;
        if offset < self.end {
            return Err("the parts of a sparse file overlap");
        }
        self.end = end;
        if size == 0 {
            // Marks the end of the file.
            return Ok(());
        }
        if self.parts.len() >= MAX_PARTS {
            return Err("a sparse file has too many parts");
        }
        self.parts.push((offset, size));
        self.stored = self.stored.checked_add(size).ok_or("a sparse file is too large")?;
        Ok(())
    }

    /// The parts, once it is known that they lie within `size` bytes.
    pub(super) fn within(self, size: u64) -> Result<Vec<(u64, u64)>, Fault> {
        if self.end > size {
            return Err("a part of a sparse file lies beyond its end");
        }
        Ok(self.parts)
    }

    /// GNU's format 0.1: `offset,size,offset,size…`.
    pub(super) fn of_text(text: &[u8]) -> Result<Self, Fault> {
        let mut map = Self::default();
        let mut numbers = text.split(|&b| b == b',').filter(|digits| !digits.is_empty());
        while let Some(offset) = numbers.next() {
            let size = numbers.next().ok_or("the map of a sparse file is malformed")?;
            map.push(decimal(offset)?, decimal(size)?)?;
        }
        Ok(map)
    }

    /// GNU's oldest format: four parts in the header. Whether more follow, and the
    /// size of the file.
    pub(super) fn of_header(header: &Header) -> Result<(Self, bool, u64), Fault> {
        let mut map = Self::default();
        map.take(&header.0[386..482])?;
        Ok((map, header.0[482] != 0, number(&header.0[483..495])?))
    }

    /// A block with 21 more parts; whether yet more follow.
    pub(super) fn more(&mut self, block: &[u8; BLOCK]) -> Result<bool, Fault> {
        self.take(&block[..504])?;
        Ok(block[504] != 0)
    }

    fn take(&mut self, fields: &[u8]) -> Result<(), Fault> {
        for part in fields.chunks_exact(24) {
            if part[0] == 0 {
                break;
            }
            self.push(number(&part[..12])?, number(&part[12..])?)?;
        }
        Ok(())
    }
}

/// GNU's format 1.0: the map stands before the content, decimal numbers on lines
/// of their own, padded to whole blocks.
#[derive(Debug, Default)]
pub(super) struct MapReader {
    line: Vec<u8>,
    /// Parts that are still to come; `None` before the first line.
    left: Option<u64>,
    offset: Option<u64>,
    map: Map,
    /// Blocks that were read.
    pub(super) blocks: u64,
}

impl MapReader {
    /// Takes a block; the map when it is complete.
    pub(super) fn block(&mut self, block: &[u8; BLOCK]) -> Result<Option<Map>, Fault> {
        self.blocks += 1;
        for &byte in block {
            if self.left == Some(0) {
                // The rest is padding.
                return Ok(Some(std::mem::take(&mut self.map)));
            }
            if byte != b'\n' {
                if self.line.len() >= 20 {
                    return Err("the map of a sparse file is malformed");
                }
                self.line.push(byte);
                continue;
            }
            let number = decimal(&std::mem::take(&mut self.line))?;
            match (self.left, self.offset.take()) {
                (None, _) if number > MAX_PARTS as u64 => {
                    return Err("a sparse file has too many parts");
                }
                (None, _) => self.left = Some(number),
                (Some(_), None) => self.offset = Some(number),
                (Some(left), Some(offset)) => {
                    self.map.push(offset, number)?;
                    self.left = Some(left - 1);
                }
            }
        }
        Ok((self.left == Some(0)).then(|| std::mem::take(&mut self.map)))
    }
}
