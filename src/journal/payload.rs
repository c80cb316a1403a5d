//! The value of a field, as journald stored it: plain, or compressed by zstd, lz4 or xz.

use std::io::Read;

/// Bits of a DATA object's flags that name its compression.
const XZ: u8 = 1;
const LZ4: u8 = 2;
const ZSTD: u8 = 4;

/// The most bytes that a compressed value may unfold to. journald takes larger ones only through a memory file.
/// Less under test, where bombs are made too.
const CAP: usize = if cfg!(test) { 1 << 20 } else { 64 << 20 };

/// The first `wanted` bytes of what was compressed to `stored`, fewer if there are no more.
///
/// # Errors
/// Says what is wrong: damaged, too large, or of an unknown kind.
pub(super) fn decompress(compression: u8, stored: &[u8], wanted: usize) -> Result<Vec<u8>, &'static str> {
    let mut value = match compression {
        ZSTD => zstd(stored, wanted)?,
        LZ4 => lz4(stored)?,
        XZ => xz(stored)?,
        _ => return Err("a value is compressed in an unknown way"),
    };
    value.truncate(wanted);
    Ok(value)
}

const TOO_LARGE: &str = "a compressed value is too large";

fn zstd(stored: &[u8], wanted: usize) -> Result<Vec<u8>, &'static str> {
    const DAMAGED: &str = "a value compressed by zstd is damaged";
    let decoder = ruzstd::decoding::StreamingDecoder::new(stored).map_err(|_| DAMAGED)?;
    let most = wanted.min(CAP + 1);
    let mut value = Vec::new();
    decoder.take(most as u64).read_to_end(&mut value).map_err(|_| DAMAGED)?;
    if value.len() > CAP {
        return Err(TOO_LARGE);
    }
    Ok(value)
}

/// A block of lz4 after its unfolded size in 8 bytes.
fn lz4(stored: &[u8]) -> Result<Vec<u8>, &'static str> {
    const DAMAGED: &str = "a value compressed by lz4 is damaged";
    let (size, block) = stored.split_first_chunk().ok_or(DAMAGED)?;
    let size = usize::try_from(u64::from_le_bytes(*size)).map_err(|_| TOO_LARGE)?;
    if size > CAP {
        return Err(TOO_LARGE);
    }
    // One byte of lz4 unfolds to 255 at most, so a damaged size reserves no memory for nothing.
    if size / 255 > block.len() {
        return Err(DAMAGED);
    }
    let mut value = vec![0; size];
    let filled = lz4_flex::block::decompress_into(block, &mut value).map_err(|_| DAMAGED)?;
    if filled != size {
        return Err(DAMAGED);
    }
    Ok(value)
}

fn xz(stored: &[u8]) -> Result<Vec<u8>, &'static str> {
    const DAMAGED: &str = "a value compressed by xz is damaged";
    // The decoder holds all it unfolds before it writes, so the size is checked first.
    if xz_size(stored).ok_or(DAMAGED)? > CAP {
        return Err(TOO_LARGE);
    }
    let mut value = Vec::new();
    lzma_rs::xz_decompress(&mut &*stored, &mut value).map_err(|_| DAMAGED)?;
    Ok(value)
}

/// The bytes to which the one block of an xz stream unfolds, summed over the heads of its LZMA2 chunks.
///
/// Source: the .xz file format 1.0.4, section 3; the chunk heads as in the LZMA2 description of the LZMA SDK.
fn xz_size(stored: &[u8]) -> Option<usize> {
    const STREAM_HEADER: usize = 12;
    let block_header = 4 * (usize::from(*stored.get(STREAM_HEADER)?) + 1);
    let mut at = STREAM_HEADER + block_header;
    let mut total = 0_usize;
    loop {
        let pair = |at: usize| Some(usize::from(u16::from_be_bytes([*stored.get(at)?, *stored.get(at + 1)?])));
        let control = *stored.get(at)?;
        let (unfolds, skip) = match control {
            0 => return Some(total),
            1 | 2 => {
                let size = pair(at + 1)? + 1;
                (size, 3 + size)
            }
            0x80.. => {
                let high = usize::from(control & 0x1f) << 16;
                let properties = usize::from(control >= 0xc0);
                (high + pair(at + 1)? + 1, 5 + properties + pair(at + 3)? + 1)
            }
            _ => return None,
        };
        total = total.checked_add(unfolds)?;
        at = at.checked_add(skip)?;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text() -> Vec<u8> {
        b"MESSAGE=".iter().copied().chain(b"all is well so far. ".iter().copied().cycle().take(5_000)).collect()
    }

    fn packed(compression: u8) -> Vec<u8> {
        let text = text();
        match compression {
            ZSTD => ruzstd::encoding::compress_to_vec(text.as_slice(), ruzstd::encoding::CompressionLevel::Fastest),
            LZ4 => {
                let mut stored = (text.len() as u64).to_le_bytes().to_vec();
                stored.extend(lz4_flex::block::compress(&text));
                stored
            }
            _ => {
                let mut stored = Vec::new();
                lzma_rs::xz_compress(&mut text.as_slice(), &mut stored).unwrap();
                stored
            }
        }
    }

    #[test]
    fn every_kind_gives_back_its_text() {
        for compression in [XZ, LZ4, ZSTD] {
            let stored = packed(compression);
            assert_eq!(decompress(compression, &stored, usize::MAX).unwrap(), text(), "{compression}");
            assert_eq!(decompress(compression, &stored, 8).unwrap(), b"MESSAGE=", "{compression}");
        }
        assert!(decompress(3, b"", 8).is_err());
    }

    #[test]
    fn a_bomb_is_refused() {
        let zeros = vec![0; CAP + 1];
        let zstd = ruzstd::encoding::compress_to_vec(zeros.as_slice(), ruzstd::encoding::CompressionLevel::Fastest);
        assert_eq!(decompress(ZSTD, &zstd, usize::MAX), Err(TOO_LARGE));
        let mut lz4 = (zeros.len() as u64).to_le_bytes().to_vec();
        lz4.extend(lz4_flex::block::compress(&zeros));
        assert_eq!(decompress(LZ4, &lz4, usize::MAX), Err(TOO_LARGE));
        let mut xz = Vec::new();
        lzma_rs::xz_compress(&mut zeros.as_slice(), &mut xz).unwrap();
        assert_eq!(decompress(XZ, &xz, usize::MAX), Err(TOO_LARGE));
    }

    proptest! {
        #[test]
        fn damage_is_an_error_or_a_value_but_never_a_panic(
            compression in prop::sample::select(vec![XZ, LZ4, ZSTD]),
            flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut stored = packed(compression);
            for (index, value) in flips {
                let index = index.index(stored.len());
                stored[index] = value;
            }
            let _ = decompress(compression, &stored, usize::MAX);
            stored.truncate(cut.index(stored.len()));
            let _ = decompress(compression, &stored, usize::MAX);
        }
    }
}
