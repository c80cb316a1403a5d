//! Where an entry stands in the journal.

use std::cmp::Ordering;

/// The place of one entry, valid across rotation and restarts.
///
/// It holds what journald's own cursor holds, so an entry can be found again in any file that has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Position {
    /// The entry's number in its sequence. First, since it is what differs when two are compared.
    pub seqnum: u64,
    /// Which sequence that is; files of one journald share it until it starts anew.
    pub seqnum_id: [u8; 16],
    /// The boot that wrote the entry.
    pub boot_id: [u8; 16],
    /// Microseconds since that boot.
    pub monotonic: u64,
    /// Microseconds since 1970, by the clock of the time.
    pub realtime: u64,
    /// A hash over all the entry's fields.
    pub xor_hash: u64,
}

impl Position {
    /// Bytes that [`Position::to_bytes`] gives.
    pub const LEN: usize = 64;

    /// The position as bytes of a fixed length, for an opaque cursor.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let parts = [
            self.seqnum_id.as_slice(),
            &self.seqnum.to_le_bytes(),
            &self.boot_id,
            &self.monotonic.to_le_bytes(),
            &self.realtime.to_le_bytes(),
            &self.xor_hash.to_le_bytes(),
        ];
        let mut bytes = [0; Self::LEN];
        for (to, from) in bytes.iter_mut().zip(parts.into_iter().flatten()) {
            *to = *from;
        }
        bytes
    }

    /// The position from [`Position::to_bytes`].
    ///
    /// Every value is a position, if not one of an entry that exists.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; Self::LEN]) -> Self {
        let id = |at: usize| {
            let mut id = [0; 16];
            for (to, from) in id.iter_mut().zip(bytes.iter().skip(at)) {
                *to = *from;
            }
            id
        };
        let number = |at| super::layout::le64(bytes, at);
        Self {
            seqnum_id: id(0),
            seqnum: number(16),
            boot_id: id(24),
            monotonic: number(40),
            realtime: number(48),
            xor_hash: number(56),
        }
    }

    /// Which of two entries comes first, as sd-journal(3) merges files: by number in one sequence, else by the monotonic
    /// clock in one boot, else by the wall clock.
    ///
    /// This is no total order (three entries may go round), hence no `Ord`.
    #[must_use]
    pub fn order(&self, other: &Self) -> Ordering {
        if self.seqnum_id == other.seqnum_id {
            let by_number = self.seqnum.cmp(&other.seqnum);
            if by_number.is_ne() {
                return by_number;
            }
        }
        if self.boot_id == other.boot_id {
            let by_clock = self.monotonic.cmp(&other.monotonic);
            if by_clock.is_ne() {
                return by_clock;
            }
        }
        self.realtime.cmp(&other.realtime).then(self.xor_hash.cmp(&other.xor_hash))
    }

    /// The first of two.
    pub(super) fn earlier(self, other: Self) -> Self {
        if other.order(&self).is_lt() { other } else { self }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    prop_compose! {
        fn positions()(
            seqnum_id: [u8; 16], seqnum: u64, boot_id: [u8; 16], monotonic: u64, realtime: u64, xor_hash: u64
        ) -> Position {
            Position { seqnum, seqnum_id, boot_id, monotonic, realtime, xor_hash }
        }
    }

    proptest! {
        #[test]
        fn bytes_and_position_are_one(position in positions()) {
            prop_assert_eq!(Position::from_bytes(&position.to_bytes()), position);
        }

        #[test]
        fn order_is_antisymmetric(a in positions(), b in positions(), same_sequence: bool, same_boot: bool) {
            let mut b = b;
            if same_sequence { b.seqnum_id = a.seqnum_id; }
            if same_boot { b.boot_id = a.boot_id; }
            prop_assert_eq!(a.order(&b), b.order(&a).reverse());
            prop_assert_eq!(a.order(&a), Ordering::Equal);
        }
    }

    #[test]
    fn number_beats_clock_only_in_one_sequence() {
        let early =
            Position { seqnum_id: [1; 16], seqnum: 1, boot_id: [2; 16], monotonic: 9, realtime: 9, xor_hash: 0 };
        let later = Position { seqnum: 2, monotonic: 5, realtime: 5, ..early };
        assert_eq!(early.order(&later), Ordering::Less);
        let elsewhere = Position { seqnum_id: [3; 16], ..later };
        assert_eq!(early.order(&elsewhere), Ordering::Greater);
        let other_boot = Position { boot_id: [4; 16], monotonic: 99, ..elsewhere };
        assert_eq!(early.order(&other_boot), Ordering::Greater);
    }
}
