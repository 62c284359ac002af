//! From an image file and its label file to the arrays a training step takes, in one call.
//!
//! The label decides first: it is resized (nearest), candidate crops are counted on it, and when the crop is known, the
//! image is inflated down to the crop's last row, and only the part that the crop shows is unfiltered, resized and written,
//! flipped, as channel planes. Every decision and every pixel is the one of the transforms LoadImage, LoadLabel, Resize,
//! SyncCrop and RandomFlip.
//!
//! A file of an unusual kind (interlaced, palette image, 16 bit, damaged, ...) gives None instead of an error: the
//! caller then reads it with the decoders that convert such files or say what is wrong with them, and hands over pixels.

pub mod choice;
pub mod filters;
pub mod numpy_rng;
pub mod photo;
pub mod png;
pub mod resize;
#[cfg(test)]
mod tests;

use crate::error::{Error, Result};
use crate::host::labels::count;
use choice::{Map, Wanted};
use ndarray::{Array2, Array3, ArrayView2, ArrayView3};
use numpy_rng::NumpyRng;
use std::cell::RefCell;
use std::path::{Path, PathBuf};

/// What the pipeline does to every image. Sizes are (height, width) unless they say otherwise.
#[derive(Clone, Debug)]
pub struct Plan {
    /// (width, height) as mmcv's Resize takes it; None keeps the stored size.
    pub scale: Option<(usize, usize)>,
    /// Smallest and largest factor of `scale`, drawn per image (mmcv's RandomResize).
    pub ratio: Option<(f64, f64)>,
    pub keep_ratio: bool,
    /// Widths of the top, bottom, left and right margins of the resized image that the valid mask leaves out.
    pub margins: Option<[usize; 4]>,
    pub crop: (usize, usize),
    pub cat_max_ratio: f64,
    pub ignore: u8,
    /// Fill what is missing of a crop with this colour (BGR); None: an image smaller than the crop is an error.
    pub fill: Option<[u8; 3]>,
    /// Probability of a horizontal flip; None draws nothing.
    pub flip: Option<f64>,
}

/// An image: a file, or pixels that were decoded elsewhere.
pub enum Image<'a> {
    File(PathBuf),
    /// [H, W, 3]; `bgr` says whether blue or red comes first.
    Pixels {
        pixels: ArrayView3<'a, u8>,
        bgr: bool,
    },
}

/// A label: a file with its table to train ids, or train ids.
pub enum Label<'a> {
    File { path: PathBuf, table: &'a IdTable },
    Ids(ArrayView2<'a, u8>),
}

/// Train id of each stored id, and which stored ids a pixel may have.
pub struct IdTable {
    pub train: [u8; 256],
    pub allowed: [bool; 256],
}

/// One training sample.
pub struct Sample {
    /// [3, h, w] in BGR order.
    pub image: Array3<u8>,
    pub label: Option<Array2<u8>>,
    /// 1 where pseudo-labels may count.
    pub valid: Option<Array2<u8>>,
    pub stored: (usize, usize),
    pub resized: (usize, usize),
    pub scale: Option<(usize, usize)>,
    pub flipped: bool,
    /// 32-bit words the draws have used.
    pub words: u64,
}

/// Buffers that a thread keeps from image to image: fresh pages for 10 MB cost as much as resizing.
#[derive(Default)]
struct Scratch {
    image_file: Vec<u8>,
    image: Vec<u8>,
    label_file: Vec<u8>,
    label: Vec<u8>,
    ids: Vec<u8>,
    crop: Vec<u8>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Loads one sample; None where a file needs another decoder.
///
/// `name` is what error messages call the image. `seed` are the words NumPy's legacy generator is seeded with.
pub fn load(
    image: &Image,
    label: Option<&Label>,
    plan: &Plan,
    seed: &[u32],
    wanted: Option<Wanted>,
    name: &str,
) -> Result<Option<Sample>> {
    SCRATCH.with_borrow_mut(|scratch| {
        let Scratch { image_file, image: image_rows, label_file, label: label_rows, ids, crop } = scratch;
        let (stored, packed) = match image {
            Image::Pixels { pixels, .. } => ((pixels.dim().0, pixels.dim().1), None),
            Image::File(path) => match png::read(path, png::Kind::Colour, image_file) {
                Some(packed) => ((packed.height, packed.width), Some(packed)),
                None => return Ok(None),
            },
        };
        let mut rng = NumpyRng::new(seed);
        let scale = plan.scale(&mut rng);
        let resized = plan.resized(stored, scale)?;
        let window = choice::window(plan, resized, name)?;

        let map = match label {
            None => None,
            Some(label) => {
                let Some(size) = label.read(label_file, label_rows, ids) else { return Ok(None) };
                if size != stored {
                    return Ok(None);
                }
                Some(Map::resized(ids, stored, resized, label_rows))
            }
        };
        let (top, left) = choice::choose(map.as_ref(), plan, window, wanted, &mut rng, crop);
        let flipped = plan.flip.is_some_and(|probability| rng.happens(probability));

        let region = resize::Region { top, left, stored, resized, crop: plan.crop, flipped };
        let mut planes = Array3::from_elem((3, plan.crop.0, plan.crop.1), 0);
        if let Some(fill) = plan.fill {
            planes.outer_iter_mut().zip(fill).for_each(|(mut plane, value)| plane.fill(value));
        }
        match (image, packed) {
            (Image::Pixels { pixels, bgr }, _) => {
                let rows = photo::Pixels { pixels: *pixels };
                photo::cut(&rows, &region, *bgr, &mut planes);
            }
            (Image::File(_), None) => return Ok(None),
            (Image::File(_), Some(packed)) => {
                let ((rows, columns), stride) = (region.reach(), packed.stride);
                if packed.inflate(rows, image_rows).is_none()
                    || !filters::undo(image_rows, stride, rows, 3 * columns, 3)
                {
                    return Ok(None);
                }
                photo::cut(&photo::Rows { bytes: image_rows, stride }, &region, false, &mut planes);
            }
        }
        let label = map.map(|map| map.cut(&region, plan.ignore));
        let valid = plan.margins.map(|margins| choice::valid(margins, &region));
        Ok(Some(Sample { image: planes, label, valid, stored, resized, scale, flipped, words: rng.used() }))
    })
}

/// Ids of a usual label file: (height, width, ids), or None.
pub fn label_ids(path: &Path) -> Option<(usize, usize, Vec<u8>)> {
    SCRATCH.with(|scratch| {
        let Scratch { label_file, label, .. } = &mut *scratch.borrow_mut();
        let mut ids = Vec::new();
        let (height, width) = read_ids(path, label_file, label, &mut ids)?;
        Some((height, width, ids))
    })
}

/// Ids as stored, into the empty `ids`.
fn read_ids(path: &Path, file: &mut Vec<u8>, rows: &mut Vec<u8>, ids: &mut Vec<u8>) -> Option<(usize, usize)> {
    let packed = png::read(path, png::Kind::Ids, file)?;
    let (height, width, stride) = (packed.height, packed.width, packed.stride);
    packed.inflate(height, rows)?;
    if !filters::undo(rows, stride, height, width, 1) {
        return None;
    }
    ids.reserve(height * width);
    rows[..height * stride].chunks_exact(stride).for_each(|row| ids.extend_from_slice(&row[1..]));
    Some((height, width))
}

impl Label<'_> {
    /// Train ids into `ids`; their (height, width), or None where another decoder or a message is called for.
    fn read(&self, file: &mut Vec<u8>, rows: &mut Vec<u8>, ids: &mut Vec<u8>) -> Option<(usize, usize)> {
        ids.clear();
        match self {
            Label::Ids(given) => {
                ids.extend(given.iter());
                Some(given.dim())
            }
            Label::File { path, table } => {
                let (height, width) = read_ids(path, file, rows, ids)?;
                let counts = count(ids);
                let present = || (0..256).filter(|&id| counts[id] > 0);
                if present().any(|id| !table.allowed[id]) {
                    return None;
                }
                if present().any(|id| table.train[id] as usize != id) {
                    ids.iter_mut().for_each(|id| *id = table.train[*id as usize]);
                }
                Some((height, width))
            }
        }
    }
}

impl Plan {
    fn scale(&self, rng: &mut NumpyRng) -> Option<(usize, usize)> {
        let (width, height) = self.scale?;
        Some(match self.ratio {
            None => (width, height),
            Some((low, high)) => {
                let ratio = rng.uniform() * (high - low) + low;
                ((width as f64 * ratio) as usize, (height as f64 * ratio) as usize)
            }
        })
    }

    /// Size after resizing, as mmcv rounds it.
    fn resized(&self, stored: (usize, usize), scale: Option<(usize, usize)>) -> Result<(usize, usize)> {
        let Some((width, height)) = scale else { return Ok(stored) };
        let resized = if self.keep_ratio {
            let (long, short) = (width.max(height) as f64, width.min(height) as f64);
            let factor = (long / stored.0.max(stored.1) as f64).min(short / stored.0.min(stored.1) as f64);
            let scaled = |length: usize| (length as f64 * factor + 0.5) as usize;
            (scaled(stored.0), scaled(stored.1))
        } else {
            (height, width)
        };
        if resized.0 == 0 || resized.1 == 0 {
            return Err(Error::value(format!(
                "resize: an image of {}x{} (height x width) would become {}x{}",
                stored.0, stored.1, resized.0, resized.1
            )));
        }
        Ok(resized)
    }
}
