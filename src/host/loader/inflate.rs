//! Inflates a zlib stream (RFC 1950 and 1951) that lies in memory as a whole.
//!
//! Half of the time of a training sample goes here, and the decoders of the ecosystem take a third longer on photographs
//! (docs/performance.md): those are literals of few bits with a match now and then, so a look into the table yields up to
//! two literals and what follows them.

use super::huffman::{distance, length, Code, Tables, LONG, MATCH, NARROW, OTHER, WIDE};
use multiversion::multiversion;

/// Bytes that must follow the stream in the input, and the last byte in the output: they are read, and written over.
pub const SLACK: usize = 16;
const END: usize = 0;
/// In which order the lengths of the code of code lengths come.
const ORDER: [usize; 19] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

/// Inflates `input[..packed]` into `out`, which has the size of the result and `SLACK`. Stops when `wanted` bytes are there,
/// unless it wants all: then the stream must end there and its checksum must fit. None where the stream is damaged.
pub fn inflate(input: &[u8], packed: usize, out: &mut [u8], wanted: usize) -> Option<()> {
    let size = out.len().checked_sub(SLACK)?;
    let [method, flags] = *input.first_chunk()?;
    if u16::from_be_bytes([method, flags]) % 31 != 0 || method & 15 != 8 || method >> 4 > 7 || flags & 32 != 0 {
        return None;
    }
    let mut tables = Tables::new()?;
    let mut bits = Bits { input, at: 2, held: 0, count: 0 };
    let (mut at, mut last) = (0, false);
    while !last {
        bits.refill()?;
        last = bits.take(1) == 1;
        match bits.take(2) {
            0 => at = stored(&mut bits, &mut out[..size], at)?,
            1 => {
                let mut lengths = [8; 288];
                lengths[144..256].fill(9);
                lengths[256..280].fill(7);
                tables.fill(&lengths, &[5; 30])?;
                at = block(&mut bits, &tables, out, at, wanted)?;
            }
            2 => {
                read_tables(&mut bits, &mut tables)?;
                at = block(&mut bits, &tables, out, at, wanted)?;
            }
            _ => return None,
        }
        if at >= wanted && wanted < size {
            return Some(());
        }
    }
    let sum = input.get(bits.taken()..packed)?.first_chunk().map(|sum| u32::from_be_bytes(*sum))?;
    (at == size && simd_adler32::adler32(&&out[..size]) == sum).then_some(())
}

#[derive(Clone, Copy)]
struct Bits<'a> {
    input: &'a [u8],
    at: usize,
    held: u64,
    count: u32,
}

impl Bits<'_> {
    /// At least 56 bits are held afterwards.
    #[inline(always)]
    fn refill(&mut self) -> Option<()> {
        let eight = self.input.get(self.at..self.at + 8)?.first_chunk()?;
        self.held |= u64::from_le_bytes(*eight) << self.count;
        self.at += ((63 - self.count) >> 3) as usize;
        self.count |= 56;
        Some(())
    }

    #[inline(always)]
    fn drop(&mut self, count: u32) {
        self.held >>= count;
        self.count -= count;
    }

    #[inline(always)]
    fn take(&mut self, count: u32) -> usize {
        let value = self.held & ((1 << count) - 1);
        self.drop(count);
        value as usize
    }

    /// Bytes of the input that were taken, the last one perhaps in part.
    fn taken(&self) -> usize {
        self.at - (self.count / 8) as usize
    }
}

/// A block that is not compressed.
fn stored(bits: &mut Bits, out: &mut [u8], at: usize) -> Option<usize> {
    let from = bits.taken() + 4;
    let [a, b, c, d] = *bits.input.get(from - 4..)?.first_chunk()?;
    let length = u16::from_le_bytes([a, b]);
    if length != !u16::from_le_bytes([c, d]) {
        return None;
    }
    let (from, end) = (from, from + length as usize);
    out.get_mut(at..at + length as usize)?.copy_from_slice(bits.input.get(from..end)?);
    *bits = Bits { input: bits.input, at: end, held: 0, count: 0 };
    Some(at + length as usize)
}

/// The codes of a block, which are coded themselves.
fn read_tables(bits: &mut Bits, tables: &mut Tables) -> Option<()> {
    let (literals, distances, count) = (bits.take(5) + 257, bits.take(5) + 1, bits.take(4) + 4);
    let mut small = [0; 19];
    for &place in &ORDER[..count] {
        bits.refill()?;
        small[place] = bits.take(3) as u8;
    }
    let code = Code::new(&small)?;
    let mut lengths = [0u8; 288 + 32 + 138];
    let mut n = 0;
    while n < literals + distances {
        bits.refill()?;
        let (symbol, taken) = code.slow(bits.held)?;
        bits.drop(taken);
        let (value, times) = match symbol {
            16 => (lengths[n.checked_sub(1)?], 3 + bits.take(2)),
            17 => (0, 3 + bits.take(3)),
            18 => (0, 11 + bits.take(7)),
            length => (length as u8, 1),
        };
        lengths[n..n + times].fill(value);
        n += times;
    }
    if n != literals + distances || literals > 286 || lengths[256] == 0 {
        return None;
    }
    tables.fill(&lengths[..literals], &lengths[literals..n])
}

/// Inflates the symbols of a block from `out[at]` on; where it stopped: at the block's end, or when `wanted` are there.
#[multiversion(targets("x86_64+avx2+bmi1+bmi2"))]
fn block(state: &mut Bits, tables: &Tables, out: &mut [u8], mut at: usize, wanted: usize) -> Option<usize> {
    let mut bits = *state; // a copy stays in registers
    let size = out.len() - SLACK;
    let enough = if wanted < size { wanted } else { size + 1 };
    while at < enough {
        bits.refill()?;
        let window: &mut [u8; SLACK] = out.get_mut(at..)?.first_chunk_mut()?;
        let mut entry = tables.wide[bits.held as usize % (1 << WIDE)];
        window[..4].copy_from_slice(&entry.to_le_bytes());
        let mut literals = (entry >> 24 & 3) as usize;
        let mut made = literals;
        bits.drop(entry >> 28);
        if entry & (MATCH | OTHER) == 0 {
            // A second look: both and a distance take 52 bits at most.
            entry = tables.wide[bits.held as usize % (1 << WIDE)];
            window[made..made + 4].copy_from_slice(&entry.to_le_bytes());
            literals = (entry >> 24 & 3) as usize;
            made += literals;
            bits.drop(entry >> 28);
        }
        at += made;
        if entry & (MATCH | OTHER) == 0 {
            continue;
        }
        let mut length = (entry >> (8 * literals) & 255) as usize + 3;
        if entry & OTHER != 0 {
            match other(&mut bits, tables, entry)? {
                Other::End => {
                    *state = bits;
                    return Some(at);
                }
                Other::Literal(literal) => {
                    out[at] = literal;
                    at += 1;
                    continue;
                }
                Other::Length(found) => length = found,
            }
            bits.refill()?;
        }
        let quick = tables.narrow[bits.held as usize % (1 << NARROW)];
        let distance = if quick != 0 {
            bits.drop(quick >> 28);
            (quick & 0x7fff) as usize + 1 + bits.take(quick >> 16 & 15)
        } else {
            let (symbol, taken) = tables.distances.slow(bits.held)?;
            bits.drop(taken);
            let (base, extra) = distance(symbol)?;
            base + bits.take(extra)
        };
        if distance > at || at + length > size {
            return None;
        }
        repeat(out, at, distance, length);
        at += length;
    }
    *state = bits;
    Some(at)
}

enum Other {
    End,
    Literal(u8),
    Length(usize),
}

/// The rare symbols: the block's end, long codes, lengths with many extra bits.
#[inline(never)]
fn other(bits: &mut Bits, tables: &Tables, entry: u32) -> Option<Other> {
    let mut symbol = entry as usize & 255;
    if symbol == LONG {
        let (found, taken) = tables.literals.slow(bits.held)?;
        bits.drop(taken);
        match found.checked_sub(256) {
            None => return Some(Other::Literal(found as u8)),
            Some(above) => symbol = above,
        }
    }
    if symbol == END {
        return Some(Other::End);
    }
    let (base, extra) = length(symbol + 256)?;
    Some(Other::Length(base + bits.take(extra as u32)))
}

/// Copies `length` bytes to `at` from `distance` before, and up to 15 bytes of no meaning behind them.
#[inline(always)]
fn repeat(out: &mut [u8], at: usize, distance: usize, length: usize) {
    if distance >= 16 {
        for to in (at..at + length).step_by(16) {
            let (before, after) = out.split_at_mut(to);
            after[..16].copy_from_slice(&before[to - distance..][..16]);
        }
    } else if distance == 1 {
        let value = out[at - 1];
        out[at..at + length].fill(value);
    } else {
        for to in at..at + length {
            out[to] = out[to - distance];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;
    use flate2::{read::ZlibDecoder, write::ZlibEncoder, Compression};
    use std::io::{Read, Write};

    fn pack(data: &[u8], level: u32) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::new(level));
        encoder.write_all(data).expect("memory");
        encoder.finish().expect("memory")
    }

    fn unpack(packed: &[u8], size: usize, wanted: usize) -> Option<Vec<u8>> {
        let mut out = vec![0; size + SLACK];
        let input = [packed, &[7; SLACK]].concat();
        inflate(&input, packed.len(), &mut out, wanted)?;
        out.truncate(wanted);
        Some(out)
    }

    fn reference(packed: &[u8]) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        ZlibDecoder::new(packed).read_to_end(&mut out).ok()?;
        Some(out)
    }

    /// Noise of several kinds: few or many values, runs, repetitions near and far.
    fn data(rng: &mut Rng, kind: usize, size: usize) -> Vec<u8> {
        let mut draw = |n: usize| rng.below(n).expect("n > 0");
        let mut out: Vec<u8> = Vec::new();
        let values = [1, 2, 9, 256][kind % 4];
        while out.len() < size {
            let count = 1 + draw(if kind % 3 == 0 { 400 } else { 20 });
            if draw(3) > 0 || out.is_empty() {
                // Geometric, so that some codes are short and some are longer than the table is wide.
                out.extend((0..count).map(|_| (draw(values) >> draw(9)) as u8));
            } else {
                let farthest = [3, 20, 40_000][draw(3)];
                let back = 1 + draw(out.len().min(farthest));
                (0..count).for_each(|_| out.push(out[out.len() - back]));
            }
        }
        out.truncate(size);
        out
    }

    #[test]
    fn what_was_packed_comes_back() {
        let mut rng = Rng::new(11);
        for case in 0..240 {
            let size = 1 + rng.below(if case % 10 == 0 { 300_000 } else { 3000 }).expect("n");
            let data = data(&mut rng, case, size);
            let packed = pack(&data, [0, 1, 6, 9][case / 4 % 4]);
            let wanted = rng.below(size).expect("n");
            assert!(unpack(&packed, size, size).as_ref() == Some(&data), "case {case}");
            assert!(unpack(&packed, size, wanted).as_deref() == Some(&data[..wanted]), "case {case}, {wanted}");
            assert!(unpack(&packed, size + 1, size + 1).is_none() && unpack(&packed, size - 1, size - 1).is_none());
        }
    }

    #[test]
    fn damage_is_found() {
        let mut rng = Rng::new(12);
        // `make fuzz` asks for more.
        let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(400);
        for case in 0..cases {
            let size = 1 + rng.below(2000).expect("n");
            let data = data(&mut rng, case, size);
            let mut packed = pack(&data, [0, 6][case / 4 % 2]);
            if case % 5 == 0 {
                packed.truncate(rng.below(packed.len()).expect("n"));
            } else {
                let at = rng.below(packed.len()).expect("n");
                packed[at] ^= 1 << rng.below(8).expect("n");
            }
            // The checksum of few bytes is weak: what it lets pass must be what others read.
            let found = unpack(&packed, size, size);
            assert!(found.is_none() || found == reference(&packed), "case {case}");
            unpack(&packed, size, size / 2);
        }
    }
}
