//! The usual PNG, fast: 8-bit RGB images and 8-bit grey or palette labels, not interlaced. Every chunk's checksum is
//! verified, and that of the pixels where all of them are inflated.
//! Anything else, damage included, gives None: `crate::host::png` and Pillow know more kinds and have the messages.

use fdeflate::Decompressor;
use std::fs::File;
use std::io::Read;
use std::path::Path;

#[derive(Clone, Copy, PartialEq)]
pub enum Kind {
    Colour,
    Ids,
}

/// Bytes behind the last row that belong to no row.
pub const SLACK: usize = 16;
const LARGEST: usize = 1 << 30;
const MAGIC: &[u8] = b"\x89PNG\r\n\x1a\n";

/// An image whose pixels lie at the start of its file's buffer, compressed.
pub struct Packed<'a> {
    pub height: usize,
    pub width: usize,
    /// Bytes of a row with its filter byte.
    pub stride: usize,
    bytes: usize,
    file: &'a [u8],
}

/// Reads `path` into `file`.
pub fn read<'a>(path: &Path, kind: Kind, file: &'a mut Vec<u8>) -> Option<Packed<'a>> {
    file.clear();
    File::open(path).ok()?.read_to_end(file).ok()?;
    let (height, width, bytes) = gather(file, kind)?;
    let stride = width.checked_mul(if kind == Kind::Colour { 3 } else { 1 })?.checked_add(1)?;
    (stride.checked_mul(height)? <= LARGEST).then_some(Packed { height, width, stride, bytes, file })
}

impl Packed<'_> {
    /// Inflates the first `count` rows into `rows`, which gets room for all: per row one filter byte and the filtered
    /// samples. None where the stream is damaged; where all rows are asked for, it must end there and its checksum must fit.
    pub fn inflate(&self, count: usize, rows: &mut Vec<u8>) -> Option<()> {
        let (size, wanted) = (self.height * self.stride, count * self.stride);
        rows.resize(size + SLACK, 0);
        let mut inflater = Decompressor::new();
        if wanted < size {
            inflater.ignore_adler32();
        }
        // A byte more than there are pixels: a stream that is too long shows in it.
        let room = if wanted < size { wanted } else { size + 1 };
        let (_, made) = inflater.read(&self.file[..self.bytes], &mut rows[..room], 0, true).ok()?;
        (made == wanted && (wanted < size || inflater.is_done())).then_some(())
    }
}

fn number(bytes: &[u8]) -> Option<usize> {
    Some(u32::from_be_bytes(bytes.get(..4)?.try_into().ok()?) as usize)
}

/// Checks all chunks and moves the compressed data together at the start of `file`; height, width, compressed bytes.
fn gather(file: &mut [u8], kind: Kind) -> Option<(usize, usize, usize)> {
    if !file.starts_with(MAGIC) {
        return None;
    }
    let (mut at, mut packed) = (MAGIC.len(), 0);
    let mut size = None;
    let (mut palette, mut ended) = (false, false);
    loop {
        let length = number(file.get(at..)?)?;
        let end = at.checked_add(8)?.checked_add(length)?;
        let name: [u8; 4] = file.get(at + 4..at + 8)?.try_into().ok()?;
        let sum = number(file.get(end..)?)?;
        if crc32fast::hash(&file[at + 4..end]) as usize != sum || (size.is_none() && &name != b"IHDR") {
            return None;
        }
        let body = at + 8..end;
        ended |= packed > 0 && &name != b"IDAT";
        match &name {
            b"IHDR" if size.is_none() && length == 13 => {
                let head = &file[body];
                let colour = match (kind, head[9]) {
                    (Kind::Colour, 2) => true,
                    (Kind::Ids, 0) => true,
                    (Kind::Ids, 3) => {
                        palette = true;
                        true
                    }
                    _ => false,
                };
                let (width, height) = (number(head)?, number(&head[4..])?);
                if !colour || head[8] != 8 || head[10..13] != [0, 0, 0] || width == 0 || height == 0 {
                    return None;
                }
                size = Some((height, width));
            }
            b"PLTE" if packed == 0 => palette = false,
            b"IDAT" if !ended && !palette => {
                file.copy_within(body, packed);
                packed += length;
            }
            b"IEND" if packed > 0 => {
                let (height, width) = size?;
                return Some((height, width, packed));
            }
            // Transparency, animations and orientation are for others to judge; other chunks that need not be known are passed over.
            b"tRNS" if kind == Kind::Ids => {}
            b"eXIf" if kind == Kind::Ids => {}
            b"tRNS" | b"acTL" | b"eXIf" => return None,
            [first, ..] if first & 0x20 != 0 => {}
            _ => return None,
        }
        at = end + 4;
    }
}
