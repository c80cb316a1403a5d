//! Numbers and positions as bytes: what is near to what came before takes little room.

use crate::journal::Position;

/// The bit of a head that says that the ids of a position follow.
pub(super) const HAS_IDS: u8 = 1 << 6;

/// Appends `value` in groups of seven bits, the lowest first, each but the last with the highest bit set (LEB128).
pub(super) fn put_number(out: &mut Vec<u8>, value: u64) {
    let mut rest = value;
    loop {
        let [low, ..] = rest.to_le_bytes();
        rest >>= 7;
        if rest == 0 {
            out.push(low & 0x7f);
            return;
        }
        out.push(low | 0x80);
    }
}

/// Appends what leads from `from` to `to`, modulo 2^64: 0, -1, 1, -2, … become 0, 1, 2, 3, … ("zigzag").
pub(super) fn put_step(out: &mut Vec<u8>, from: u64, to: u64) {
    let step = to.wrapping_sub(from).cast_signed();
    put_number(out, ((step << 1) ^ (step >> 63)).cast_unsigned());
}

/// The bit of the head for a position after `from`.
pub(super) fn ids_bit(from: &Position, to: &Position) -> u8 {
    if (from.seqnum_id, from.boot_id) == (to.seqnum_id, to.boot_id) { 0 } else { HAS_IDS }
}

/// Appends `to` but for its hash; [`ids_bit`] must be known to whoever reads it.
pub(super) fn put_position(out: &mut Vec<u8>, from: &Position, to: &Position) {
    if ids_bit(from, to) != 0 {
        out.extend(to.seqnum_id);
        out.extend(to.boot_id);
    }
    put_step(out, from.seqnum, to.seqnum);
    put_step(out, from.realtime, to.realtime);
    // Both clocks go on alike, so the step of the second is nearly that of the first.
    put_step(out, to.realtime.wrapping_sub(from.realtime), to.monotonic.wrapping_sub(from.monotonic));
}

/// Bytes that are read from the front; `None` stands for bytes that are missing or senseless.
#[derive(Debug)]
pub(super) struct Input<'b>(&'b [u8]);

impl<'b> Input<'b> {
    pub(super) fn new(bytes: &'b [u8]) -> Self {
        Self(bytes)
    }

    /// What has not been read.
    pub(super) fn rest(&self) -> &'b [u8] {
        self.0
    }

    pub(super) fn byte(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*array)
    }

    pub(super) fn slice(&mut self, len: u64) -> Option<&'b [u8]> {
        let (slice, rest) = self.0.split_at_checked(usize::try_from(len).ok()?)?;
        self.0 = rest;
        Some(slice)
    }

    pub(super) fn number(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..u64::BITS).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            value |= bits << shift;
            if bits << shift >> shift != bits {
                return None;
            }
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    pub(super) fn step(&mut self, from: u64) -> Option<u64> {
        let number = self.number()?;
        let step = (number >> 1) ^ (number & 1).wrapping_neg();
        Some(from.wrapping_add(step))
    }

    /// A position but for its hash, which is that of `from`.
    pub(super) fn position(&mut self, head: u8, from: &Position) -> Option<Position> {
        let mut position = *from;
        if head & HAS_IDS != 0 {
            position.seqnum_id = self.array()?;
            position.boot_id = self.array()?;
        }
        position.seqnum = self.step(from.seqnum)?;
        position.realtime = self.step(from.realtime)?;
        let step = self.step(position.realtime.wrapping_sub(from.realtime))?;
        position.monotonic = from.monotonic.wrapping_add(step);
        Some(position)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn small_steps_take_one_byte() {
        for to in [100, 99, 101, 37, 163] {
            let mut out = Vec::new();
            put_step(&mut out, 100, to);
            assert_eq!(out.len(), 1, "{to}");
        }
    }

    #[test]
    fn a_number_of_more_than_64_bits_is_refused() {
        let mut most = Vec::new();
        put_number(&mut most, u64::MAX);
        assert_eq!(Input::new(&most).number(), Some(u64::MAX));
        *most.last_mut().unwrap() += 1;
        assert_eq!(Input::new(&most).number(), None);
        assert_eq!(Input::new(&[0x80; 11]).number(), None);
    }

    proptest! {
        #[test]
        fn numbers_and_steps_come_back(number: u64, from: u64, to: u64) {
            let mut out = Vec::new();
            put_number(&mut out, number);
            put_step(&mut out, from, to);
            let mut input = Input::new(&out);
            prop_assert_eq!(input.number(), Some(number));
            prop_assert_eq!(input.step(from), Some(to));
            prop_assert_eq!(input.rest(), b"");
        }

        #[test]
        fn a_position_comes_back_but_for_its_hash(from: [u8; Position::LEN], to: [u8; Position::LEN], same_ids: bool) {
            let from = Position::from_bytes(&from);
            let mut to = Position { xor_hash: from.xor_hash, ..Position::from_bytes(&to) };
            if same_ids {
                (to.seqnum_id, to.boot_id) = (from.seqnum_id, from.boot_id);
            }
            let mut out = Vec::new();
            put_position(&mut out, &from, &to);
            let mut input = Input::new(&out);
            prop_assert_eq!(input.position(ids_bit(&from, &to), &from), Some(to));
            prop_assert_eq!(input.rest(), b"");
        }
    }
}
