//! What the scan keeps of a branch above leaves of records: some seven bytes a child,
//! where the page has 33.
//!
//! Only pages that come back from it byte for byte are kept in this form.

use super::varint;
use crate::bbolt::page::{BRANCH_ELEMENT_SIZE, FLAG_BRANCH, HEADER_SIZE, Page, PageHeader, PageId};
use crate::datadir::schema::RecordKey;

/// The most bytes of a packed branch of `count` children.
pub(super) fn max_size(count: usize) -> usize {
    // Two headers of 32 bits, and three numbers of up to ten bytes for each child.
    2 * varint::MAX_U32 + count * 30
}

/// Appends the packed form of `page`, the branch with the number `id`, to `to`; false,
/// and nothing, when it would not come back as it is.
pub(super) fn pack(id: PageId, page: &Page<'_>, used: usize, to: &mut Vec<u8>) -> bool {
    let start = to.len();
    if append(id, page, to).is_none() {
        to.truncate(start);
        return false;
    }
    let mut again = Vec::with_capacity(used);
    let whole = unpack(id, &to[start..], &mut again).is_some() && again == page.bytes()[..used];
    if !whole {
        to.truncate(start);
    }
    whole
}

fn append(id: PageId, page: &Page<'_>, to: &mut Vec<u8>) -> Option<()> {
    let header = page.header();
    varint::put(to, header.count.into());
    varint::put(to, header.overflow.into());
    let (mut child, mut main) = (id, 0_i64);
    for index in 0..page.len() {
        let element = page.branch(index).ok()?;
        let key = RecordKey::parse(element.key).ok()?;
        varint::put_signed(to, element.child.wrapping_sub(child) as i64);
        varint::put_signed(to, key.main.wrapping_sub(main));
        let sub = u32::try_from(key.sub).ok()?;
        varint::put(to, u64::from(sub) << 1 | u64::from(key.tombstone));
        (child, main) = (element.child, key.main);
    }
    Some(())
}

/// Writes the page that was packed to `to`, which is empty, up to the end of its last
/// key.
pub(super) fn unpack(id: PageId, mut packed: &[u8], to: &mut Vec<u8>) -> Option<()> {
    let from = &mut packed;
    let count = u16::try_from(varint::take(from)?).ok()?;
    let overflow = u32::try_from(varint::take(from)?).ok()?;
    let mut at = HEADER_SIZE;
    to.resize(HEADER_SIZE + usize::from(count) * BRANCH_ELEMENT_SIZE, 0);
    PageHeader { id, flags: FLAG_BRANCH, count, overflow }.write(to);
    let (mut child, mut main) = (id, 0_i64);
    for _ in 0..count {
        child = child.wrapping_add(varint::take_signed(from)? as u64);
        main = main.wrapping_add(varint::take_signed(from)?);
        let sub = varint::take(from)?;
        let key = RecordKey { main, sub: (sub >> 1) as i64, tombstone: sub & 1 == 1 }.to_bytes();
        // Where the key lies is counted from its element.
        let position = u32::try_from(to.len() - at).ok()?;
        to[at..at + 4].copy_from_slice(&position.to_le_bytes());
        to[at + 4..at + 8].copy_from_slice(&(key.len() as u32).to_le_bytes());
        to[at + 8..at + 16].copy_from_slice(&child.to_le_bytes());
        to.extend_from_slice(&key);
        at += BRANCH_ELEMENT_SIZE;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A branch as bbolt writes it.
    fn branch(id: PageId, children: &[(RecordKey, PageId)]) -> Vec<u8> {
        let count = children.len() as u16;
        let table = HEADER_SIZE + children.len() * BRANCH_ELEMENT_SIZE;
        let (mut bytes, mut keys) = (vec![0; table], Vec::new());
        PageHeader { id, flags: FLAG_BRANCH, count, overflow: 0 }.write(&mut bytes);
        for (index, (key, child)) in children.iter().enumerate() {
            let at = HEADER_SIZE + index * BRANCH_ELEMENT_SIZE;
            let key = key.to_bytes();
            bytes[at..at + 4].copy_from_slice(&((table + keys.len() - at) as u32).to_le_bytes());
            bytes[at + 4..at + 8].copy_from_slice(&(key.len() as u32).to_le_bytes());
            bytes[at + 8..at + 16].copy_from_slice(&child.to_le_bytes());
            keys.extend(key);
        }
        [bytes, keys].concat()
    }

    fn packed(bytes: &[u8], id: PageId) -> Option<Vec<u8>> {
        let mut to = vec![7];
        let kept = pack(id, &Page::parse(bytes).unwrap(), bytes.len(), &mut to);
        assert_eq!(to[0], 7);
        assert!(kept || to.len() == 1);
        kept.then(|| to.split_off(1))
    }

    #[test]
    fn a_branch_comes_back_byte_for_byte_or_is_not_packed() {
        let key = |main, sub, tombstone| RecordKey { main, sub, tombstone };
        let children: Vec<_> = (0..100_u64)
            .map(|n| (key(4_000_000 + n as i64 * 2, (n % 3) as i64, n % 5 == 0), 90_000 - n * 7))
            .collect();
        let bytes = branch(90_500, &children);
        let small = packed(&bytes, 90_500).unwrap();
        assert!(small.len() < 100 * 5 && small.len() <= max_size(100), "{}", small.len());
        let mut again = Vec::new();
        unpack(90_500, &small, &mut again).unwrap();
        assert_eq!(again, bytes);

        // The widest of everything.
        let wide = [
            (key(i64::MIN, 0, false), u64::MAX),
            (key(i64::MAX, u32::MAX.into(), true), 0),
            (key(-1, 1, false), 1 << 63),
        ];
        let bytes = branch(3, &wide);
        assert!(packed(&bytes, 3).unwrap().len() <= max_size(3));

        // Other keys, another number, keys that lie elsewhere, bytes that nothing names.
        assert_eq!(packed(&branch(3, &[(key(1, -1, false), 4)]), 3), None);
        assert_eq!(packed(&branch(3, &[(key(1, 1 << 32, false), 4)]), 3), None);
        assert_eq!(packed(&branch(3, &wide), 4), None);
        for at in (0..bytes.len()).filter(|&at| !(8..12).contains(&at)) {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            let Ok(page) = Page::parse(&changed) else { continue };
            let mut to = Vec::new();
            if pack(3, &page, changed.len(), &mut to) {
                let mut again = Vec::new();
                unpack(3, &to, &mut again).unwrap();
                assert_eq!(again, changed, "byte {at}");
            }
        }
        for end in 0..small.len() {
            let mut again = Vec::new();
            assert_eq!(unpack(90_500, &small[..end], &mut again), None);
        }
    }
}
