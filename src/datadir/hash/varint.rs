//! Numbers in as few bytes as they need: seven bits a byte, the lowest first, the top
//! bit set on all but the last.

/// The most bytes of a number of 32 bits.
pub(super) const MAX_U32: usize = 5;

/// Appends `number`.
pub(super) fn put(to: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        to.push(number as u8 | 0x80);
        number >>= 7;
    }
    to.push(number as u8);
}

/// Takes a number off the start of `from`; `None` when there is none.
pub(super) fn take(from: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = from.split_first()?;
        *from = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

/// Appends a difference, small ones of either sign in few bytes.
pub(super) fn put_signed(to: &mut Vec<u8>, number: i64) {
    put(to, (number << 1 ^ number >> 63) as u64);
}

/// Takes a difference off the start of `from`.
pub(super) fn take_signed(from: &mut &[u8]) -> Option<i64> {
    let number = take(from)?;
    Some((number >> 1) as i64 ^ -((number & 1) as i64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back() {
        let numbers = [0, 1, 127, 128, 300, u64::from(u32::MAX), i64::MAX as u64, u64::MAX];
        let mut bytes = Vec::new();
        for number in numbers {
            put(&mut bytes, number);
            put_signed(&mut bytes, number as i64);
        }
        let mut rest = bytes.as_slice();
        for number in numbers {
            assert_eq!(take(&mut rest), Some(number));
            assert_eq!(take_signed(&mut rest), Some(number as i64));
        }
        assert_eq!((take(&mut rest), rest), (None, &[][..]));
        for bad in [&[][..], &[0x80], &[0xff; 10]] {
            assert_eq!(take(&mut &*bad), None, "{bad:?}");
        }
        let mut longest = Vec::new();
        put(&mut longest, u32::MAX.into());
        assert_eq!(longest.len(), MAX_U32);
    }
}
