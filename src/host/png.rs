//! Label PNGs: ids as stored (palette indices, never colours) in, 8-bit grey out. Checksums are verified, truncated
//! files are errors, and every message names the file.

use crate::error::{Error, Result};
use crate::host::labels::Ids;
use crate::host::loader;
use png::{BitDepth, ColorType, Compression, Decoder, DecodingError, Encoder, Transformations};
use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// Where a file keeps its ids.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Channel {
    /// The only channel of a grey or palette file.
    Only,
    /// Red of a colour file: SYNTHIA keeps the class there and the instance in green.
    Red,
}

/// A decoded label file.
pub struct LabelFile {
    pub height: usize,
    pub width: usize,
    pub ids: Ids,
}

fn io(path: &Path) -> impl Fn(std::io::Error) -> Error + '_ {
    move |source| Error::Io { path: path.display().to_string(), source }
}

fn corrupt(path: &Path, error: DecodingError) -> Error {
    match error {
        DecodingError::IoError(source) if source.kind() != std::io::ErrorKind::UnexpectedEof => {
            Error::Io { path: path.display().to_string(), source }
        }
        other => Error::value(format!("{}: truncated or corrupt PNG ({other})", path.display())),
    }
}

fn open(path: &Path) -> Result<png::Reader<BufReader<File>>> {
    let file = File::open(path).map_err(io(path))?;
    if file.metadata().map_err(io(path))?.len() == 0 {
        return Err(Error::value(format!("{}: expected a PNG, found an empty file (0 bytes)", path.display())));
    }
    let mut decoder = Decoder::new(BufReader::with_capacity(1 << 16, file));
    decoder.set_transformations(Transformations::IDENTITY);
    decoder.read_info().map_err(|e| corrupt(path, e))
}

/// Height and width from the header.
pub fn size(path: &Path) -> Result<(usize, usize)> {
    let reader = open(path)?;
    Ok((reader.info().height as usize, reader.info().width as usize))
}

/// Ids as stored. Grey and palette files for `Channel::Only`, RGB or RGBA for `Channel::Red`.
pub fn read(path: &Path, channel: Channel) -> Result<LabelFile> {
    if let (Channel::Only, Some((height, width, ids))) = (channel, loader::label_ids(path)) {
        return Ok(LabelFile { height, width, ids: Ids::U8(ids) });
    }
    let mut reader = open(path)?;
    let needed = reader
        .output_buffer_size()
        .ok_or_else(|| Error::value(format!("{}: the image is too large to decode", path.display())))?;
    let mut bytes = vec![0; needed];
    let frame = reader.next_frame(&mut bytes).map_err(|e| corrupt(path, e))?;
    // Reads the checksum of the whole stream and the end marker: a file cut behind its last row is cut all the same.
    reader.finish().map_err(|e| corrupt(path, e))?;
    let samples = match (channel, frame.color_type) {
        (Channel::Only, ColorType::Grayscale | ColorType::Indexed) => 1,
        (Channel::Red, ColorType::Rgb) => 3,
        (Channel::Red, ColorType::Rgba) => 4,
        (_, found) => {
            let expected = match channel {
                Channel::Only => "a label with one channel of ids (grey or palette)",
                Channel::Red => "a label with RGB channels, the class in red",
            };
            return Err(Error::value(format!("{}: expected {expected}, found {found:?}", path.display())));
        }
    };
    let (height, width) = (frame.height as usize, frame.width as usize);
    let ids = match frame.bit_depth {
        BitDepth::Sixteen => {
            Ids::U16(bytes.chunks_exact(2 * samples).map(|pixel| u16::from_be_bytes([pixel[0], pixel[1]])).collect())
        }
        BitDepth::Eight if samples == 1 => Ids::U8(bytes),
        BitDepth::Eight => Ids::U8(bytes.chunks_exact(samples).map(|pixel| pixel[0]).collect()),
        small => Ids::U8(unpack(&bytes, frame.line_size, width, small as usize)),
    };
    if ids.len() != height * width {
        return Err(Error::value(format!("{}: expected {height}x{width} pixels, found {}", path.display(), ids.len())));
    }
    Ok(LabelFile { height, width, ids })
}

/// Pixels of an 8-bit RGB PNG as [H, W, 3] in BGR order, or None where the file is another kind of PNG or has an EXIF
/// record, which may ask for another orientation.
pub fn read_bgr(path: &Path) -> Result<Option<(usize, usize, Vec<u8>)>> {
    let mut reader = open(path)?;
    let info = reader.info();
    if info.color_type != ColorType::Rgb || info.bit_depth != BitDepth::Eight || info.trns.is_some() {
        return Ok(None);
    }
    let needed = reader
        .output_buffer_size()
        .ok_or_else(|| Error::value(format!("{}: the image is too large to decode", path.display())))?;
    let mut pixels = vec![0; needed];
    let frame = reader.next_frame(&mut pixels).map_err(|e| corrupt(path, e))?;
    reader.finish().map_err(|e| corrupt(path, e))?;
    if reader.info().exif_metadata.is_some() {
        return Ok(None);
    }
    pixels.chunks_exact_mut(3).for_each(|pixel| pixel.swap(0, 2));
    Ok(Some((frame.height as usize, frame.width as usize, pixels)))
}

/// One id per pixel from rows that pack several into a byte, most significant first.
fn unpack(bytes: &[u8], line: usize, width: usize, bits: usize) -> Vec<u8> {
    let mask = (1u8 << bits) - 1;
    let per_byte = 8 / bits;
    bytes
        .chunks_exact(line)
        .flat_map(|row| (0..width).map(move |x| (row[x / per_byte] >> (8 - bits * (x % per_byte + 1))) & mask))
        .collect()
}

/// Writes an 8-bit grey PNG under a temporary name and renames it, so that no reader ever sees half a file.
pub fn write(path: &Path, height: usize, width: usize, ids: &[u8]) -> Result<()> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    if ids.len() != height * width || ids.is_empty() {
        return Err(Error::shape(format!("{}: expected {height}x{width} > 0 ids, got {}", path.display(), ids.len())));
    }
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    let temporary = path.with_file_name(format!(".{name}.{}-{number}.tmp", std::process::id()));
    let written = encode(&temporary, height, width, ids).and_then(|()| fs::rename(&temporary, path).map_err(io(path)));
    if written.is_err() {
        // The first error is the one to report; the leftover may not even exist.
        let _ = fs::remove_file(&temporary);
    }
    written
}

fn encode(path: &Path, height: usize, width: usize, ids: &[u8]) -> Result<()> {
    let wrong = |e: png::EncodingError| match e {
        png::EncodingError::IoError(source) => Error::Io { path: path.display().to_string(), source },
        other => Error::value(format!("{}: {other}", path.display())),
    };
    let mut file = BufWriter::with_capacity(1 << 16, File::create(path).map_err(io(path))?);
    let mut encoder = Encoder::new(&mut file, width as u32, height as u32);
    encoder.set_color(ColorType::Grayscale);
    encoder.set_depth(BitDepth::Eight);
    encoder.set_compression(Compression::Fast);
    let mut writer = encoder.write_header().map_err(wrong)?;
    writer.write_image_data(ids).map_err(wrong)?;
    writer.finish().map_err(wrong)?;
    file.flush().map_err(io(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_damage_is_found() {
        let folder = std::env::temp_dir().join(format!("pipa-png-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("temporary folder");
        let path = folder.join("a.png");
        let ids: Vec<u8> = (0..35u32).map(|i| (i * 37 % 256) as u8).collect();
        write(&path, 5, 7, &ids).expect("writes");
        let read_back = read(&path, Channel::Only).expect("reads");
        assert_eq!((read_back.height, read_back.width, read_back.ids), (5, 7, Ids::U8(ids.clone())));
        assert_eq!(size(&path).expect("size"), (5, 7));
        assert!(read(&path, Channel::Red).is_err());

        let bytes = fs::read(&path).expect("bytes");
        for end in [0, 10, bytes.len() / 2, bytes.len() - 4] {
            fs::write(&path, &bytes[..end]).expect("cut");
            let message = read(&path, Channel::Only).err().map(|e| e.to_string()).unwrap_or_default();
            assert!(message.contains("a.png"), "{end}: {message}");
        }
        assert!(write(&path, 5, 8, &ids).is_err());
        assert_eq!(fs::read_dir(&folder).expect("folder").count(), 1);
        fs::remove_dir_all(&folder).expect("clean");
    }

    #[test]
    fn packed_rows() {
        assert_eq!(unpack(&[0b1011_0000, 0b0100_0000], 1, 3, 1), [1, 0, 1, 0, 1, 0]);
        assert_eq!(unpack(&[0x1f, 0x20], 2, 3, 4), [1, 15, 2]);
        assert_eq!(unpack(&[0b1101_1000], 1, 3, 2), [3, 1, 2]);
    }
}
