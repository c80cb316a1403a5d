//! The two hash functions by which a journal file finds a field's value.

use std::hash::Hasher as _;

use siphasher::sip::SipHasher24;

use super::layout::le32;

/// The hash of `data` in a file whose flags say that its hashes are keyed.
///
/// The key is the file's own id, so that nobody can prepare collisions.
pub(super) fn keyed(file_id: &[u8; 16], data: &[u8]) -> u64 {
    let mut hasher = SipHasher24::new_with_key(file_id);
    hasher.write(data);
    hasher.finish()
}

/// The hash of `data` in a file without keyed hashes: Bob Jenkins' lookup3 (public domain), its two halves in one number.
pub(super) fn jenkins(data: &[u8]) -> u64 {
    // The algorithm counts the length in 32 bits and wraps.
    #[expect(clippy::cast_possible_truncation, reason = "the algorithm adds the length modulo 2^32")]
    let start = 0xdead_beef_u32.wrapping_add(data.len() as u32);
    let (mut a, mut b, mut c) = (start, start, start);
    let mut rest = data;
    while let Some((block, tail)) = rest.split_first_chunk::<12>()
        && !tail.is_empty()
    {
        (a, b, c) = add(a, b, c, block);
        (a, b, c) = mix(a, b, c);
        rest = tail;
    }
    if !rest.is_empty() {
        let mut block = [0; 12];
        for (to, from) in block.iter_mut().zip(rest) {
            *to = *from;
        }
        (a, b, c) = add(a, b, c, &block);
        (b, c) = finish(a, b, c);
    }
    u64::from(c) << 32 | u64::from(b)
}

/// What the message of an entry is to the hash in its position: that is the exclusive or of the hashes of all its fields, by
/// [`jenkins`] in files of every kind.
pub(crate) fn of_message(message: &[u8]) -> u64 {
    jenkins(&[b"MESSAGE=", message].concat())
}

fn add(a: u32, b: u32, c: u32, block: &[u8; 12]) -> (u32, u32, u32) {
    (a.wrapping_add(le32(block, 0)), b.wrapping_add(le32(block, 4)), c.wrapping_add(le32(block, 8)))
}

fn mix(mut a: u32, mut b: u32, mut c: u32) -> (u32, u32, u32) {
    a = a.wrapping_sub(c) ^ c.rotate_left(4);
    c = c.wrapping_add(b);
    b = b.wrapping_sub(a) ^ a.rotate_left(6);
    a = a.wrapping_add(c);
    c = c.wrapping_sub(b) ^ b.rotate_left(8);
    b = b.wrapping_add(a);
    a = a.wrapping_sub(c) ^ c.rotate_left(16);
    c = c.wrapping_add(b);
    b = b.wrapping_sub(a) ^ a.rotate_left(19);
    a = a.wrapping_add(c);
    c = c.wrapping_sub(b) ^ b.rotate_left(4);
    b = b.wrapping_add(a);
    (a, b, c)
}

fn finish(mut a: u32, mut b: u32, mut c: u32) -> (u32, u32) {
    c = (c ^ b).wrapping_sub(b.rotate_left(14));
    a = (a ^ c).wrapping_sub(c.rotate_left(11));
    b = (b ^ a).wrapping_sub(a.rotate_left(25));
    c = (c ^ b).wrapping_sub(b.rotate_left(16));
    a = (a ^ c).wrapping_sub(c.rotate_left(4));
    b = (b ^ a).wrapping_sub(a.rotate_left(14));
    c = (c ^ b).wrapping_sub(b.rotate_left(24));
    (b, c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jenkins_agrees_with_the_published_examples() {
        // From the self test of lookup3.c: hashlittle2 with both seeds 0.
        assert_eq!(jenkins(b""), 0xdead_beef_dead_beef);
        assert_eq!(jenkins(b"Four score and seven years ago"), 0x1777_0551_ce72_26e6);
    }

    #[test]
    fn keyed_agrees_with_the_reference_vector() {
        // From the appendix of the SipHash paper: key 00..0f, message 00..0e.
        let key: [u8; 16] = std::array::from_fn(|i| u8::try_from(i).unwrap());
        let message: Vec<u8> = (0..15).collect();
        assert_eq!(keyed(&key, &message), 0xa129_ca61_49be_45e5);
    }
}
