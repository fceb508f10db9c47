//! CRC-32C of joined byte strings from the CRCs of their parts.

/// Castagnoli's polynomial, reflected.
const POLYNOMIAL: u32 = 0x82F6_3B78;

/// x^(8·d·256^k) mod P for every digit d of a length written to base 256: a
/// length below 16 MiB takes at most three multiplications.
static POWERS: [[u32; 256]; 8] = powers();

/// a·b mod P, bits reflected: bit 31 is x^0.
const fn multiply(a: u32, mut b: u32) -> u32 {
    let mut product = 0;
    let mut bit = 32;
    while bit > 0 {
        bit -= 1;
        product ^= b & 0_u32.wrapping_sub(a >> bit & 1);
        b = (b >> 1) ^ (POLYNOMIAL & 0_u32.wrapping_sub(b & 1));
    }
    product
}

const fn powers() -> [[u32; 256]; 8] {
    let one = 1 << 31;
    let mut table = [[one; 256]; 8];
    // x^8, then its 256th powers.
    let mut base = 1 << 23;
    let mut row = 0;
    while row < 8 {
        let mut digit = 1;
        while digit < 256 {
            table[row][digit] = multiply(table[row][digit - 1], base);
            digit += 1;
        }
        base = multiply(table[row][255], base);
        row += 1;
    }
    table
}

/// The part of `crc(A ‖ B)` that comes from A, when B has `length` bytes.
pub(super) fn shift(crc: u32, length: u64) -> u32 {
    let mut shifted = crc;
    for (digit, row) in length.to_le_bytes().into_iter().zip(&POWERS) {
        if digit != 0 {
            shifted = multiply(shifted, row[usize::from(digit)]);
        }
    }
    shifted
}

/// `crc(A ‖ B)` from `crc(A)`, `crc(B)` and the length of B.
pub(super) fn join(a: u32, b: u32, length: u64) -> u32 {
    shift(a, length) ^ b
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn joined_parts_equal_the_whole(
            a in proptest::collection::vec(any::<u8>(), 0..700),
            b in proptest::collection::vec(any::<u8>(), 0..70_000),
        ) {
            let whole = [a.as_slice(), &b].concat();
            let joined = join(crc32c::crc32c(&a), crc32c::crc32c(&b), b.len() as u64);
            prop_assert_eq!(joined, crc32c::crc32c(&whole));
        }

        #[test]
        fn lengths_add_up(crc in any::<u32>(), a in 0..1_u64 << 40, b in 0..1_u64 << 60) {
            prop_assert_eq!(shift(shift(crc, a), b), shift(crc, a + b));
        }
    }
}
