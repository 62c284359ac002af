//! The usual PNG, fast: 8-bit RGB images and 8-bit grey or palette labels, not interlaced. Every checksum is verified.
//! Anything else, damage included, gives None: `crate::host::png` and Pillow know more kinds and have the messages.

use std::fs::File;
use std::io::Read;
use std::path::Path;

#[derive(Clone, Copy, PartialEq)]
pub enum Kind {
    Colour,
    Ids,
}

/// Bytes behind the last row that the vector code may read.
pub const SLACK: usize = 8;
const LARGEST: usize = 1 << 30;
const MAGIC: &[u8] = b"\x89PNG\r\n\x1a\n";

/// Reads `path` and inflates it into `rows`: per row one filter byte and the filtered samples. Returns (height, width).
pub fn inflate(path: &Path, kind: Kind, file: &mut Vec<u8>, rows: &mut Vec<u8>) -> Option<(usize, usize)> {
    file.clear();
    File::open(path).ok()?.read_to_end(file).ok()?;
    let (height, width, packed) = gather(file, kind)?;
    let samples = if kind == Kind::Colour { 3 } else { 1 };
    let size = width.checked_mul(samples)?.checked_add(1)?.checked_mul(height)?;
    if size > LARGEST {
        return None;
    }
    rows.resize(size + SLACK, 0);
    let mut decompressor = fdeflate::Decompressor::new();
    let (mut taken, mut made) = (0, 0);
    while !decompressor.is_done() {
        let (read, written) = decompressor.read(&file[taken..packed], &mut rows[..size], made, true).ok()?;
        if (read, written) == (0, 0) && !decompressor.is_done() {
            return None; // more pixels than the header says
        }
        taken += read;
        made += written;
    }
    (made == size).then_some((height, width))
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
            // Transparency and animations are for others to judge; other chunks that need not be known are passed over.
            b"tRNS" if kind == Kind::Ids => {}
            b"tRNS" | b"acTL" => return None,
            [first, ..] if first & 0x20 != 0 => {}
            _ => return None,
        }
        at = end + 4;
    }
}
