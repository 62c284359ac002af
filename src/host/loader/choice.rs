//! Where the crop lies: candidates are drawn and counted on the resized label alone.

use super::numpy_rng::NumpyRng;
use super::resize::{nearest, Region};
use super::Plan;
use crate::error::{Error, Result};
use crate::host::labels::count;
use ndarray::{s, Array2, ArrayView2};

/// Candidates that `cat_max_ratio` may refuse, as in mmseg's RandomCrop.
const REFUSALS: usize = 10;

/// Rare class sampling: crops are chosen until one holds more than `need` pixels of `class`.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    pub class: u8,
    pub need: f64,
    pub tries: usize,
}

/// A label map of the resized size.
pub struct Map<'a> {
    ids: &'a [u8],
    size: (usize, usize),
}

impl<'a> Map<'a> {
    /// Resizes `ids`; `spare` holds the result where the size changes.
    pub fn resized(ids: &'a [u8], stored: (usize, usize), size: (usize, usize), spare: &'a mut Vec<u8>) -> Self {
        if stored == size {
            return Map { ids, size };
        }
        let (down, across) = (nearest(stored.0, size.0), nearest(stored.1, size.1));
        spare.resize(size.0 * size.1, 0);
        let mut before = usize::MAX;
        for (y, &from) in down.iter().enumerate() {
            let (done, rest) = spare.split_at_mut(y * size.1);
            let row = &mut rest[..size.1];
            if from == before {
                row.copy_from_slice(&done[(y - 1) * size.1..]);
            } else {
                let ids = &ids[from * stored.1..(from + 1) * stored.1];
                row.iter_mut().zip(&across).for_each(|(to, &from)| *to = ids[from]);
            }
            before = from;
        }
        Map { ids: &spare[..size.0 * size.1], size }
    }

    fn row(&self, y: usize, left: usize, width: usize) -> &[u8] {
        let end = (left + width).min(self.size.1);
        &self.ids[y * self.size.1 + left..y * self.size.1 + end]
    }

    /// Pixels of each id in a crop. `buffer` holds it in one piece, because counting has a cost per piece.
    fn count(&self, (top, left): (usize, usize), crop: (usize, usize), buffer: &mut Vec<u8>) -> [u64; 256] {
        buffer.clear();
        for y in top..(top + crop.0).min(self.size.0) {
            buffer.extend_from_slice(self.row(y, left, crop.1));
        }
        count(buffer)
    }

    /// The crop, flipped where the region says so; `ignore` where the image does not reach.
    pub fn cut(&self, region: &Region, ignore: u8) -> Array2<u8> {
        let (rows, columns) = region.covered();
        let mut out = Array2::from_elem(region.crop, ignore);
        let map = ArrayView2::from_shape(self.size, self.ids);
        if let Ok(map) = map {
            let part = map.slice(s![region.top..region.top + rows, region.left..region.left + columns]);
            let start = region.first_column();
            let mut target = out.slice_mut(s![..rows, start..start + columns]);
            if region.flipped {
                target.assign(&part.slice(s![.., ..;-1]));
            } else {
                target.assign(&part);
            }
        }
        out
    }
}

/// Numbers of top and of left corners there are; an error where the crop does not fit and must not be padded.
pub fn window(plan: &Plan, resized: (usize, usize), name: &str) -> Result<(usize, usize)> {
    let (height, width) = resized;
    if plan.fill.is_none() && (height < plan.crop.0 || width < plan.crop.1) {
        return Err(Error::value(format!(
            "{name}: the image is {height}x{width} (height x width) when it is cropped, but the crop is {}x{}; resize it \
             to at least that, choose a smaller crop, or set pad=True on SyncCrop",
            plan.crop.0, plan.crop.1
        )));
    }
    Ok((height.max(plan.crop.0) - plan.crop.0 + 1, width.max(plan.crop.1) - plan.crop.1 + 1))
}

/// More than one class, none of which fills too much of what counts.
fn varied(mut counts: [u64; 256], plan: &Plan) -> bool {
    counts[plan.ignore as usize] = 0;
    let (present, largest) = (counts.iter().filter(|&&n| n > 0).count(), counts.iter().max().copied().unwrap_or(0));
    present > 1 && largest as f64 / (counts.iter().sum::<u64>() as f64) < plan.cat_max_ratio
}

/// Top left corner of the crop. `buffer` is for counting.
pub fn choose(
    map: Option<&Map>,
    plan: &Plan,
    window: (usize, usize),
    wanted: Option<Wanted>,
    rng: &mut NumpyRng,
    buffer: &mut Vec<u8>,
) -> (usize, usize) {
    let mut corner = (0, 0);
    for _ in 0..wanted.map_or(1, |wanted| wanted.tries.max(1)) {
        corner = (rng.below(window.0), rng.below(window.1));
        let Some(map) = map else { break };
        let mut counts = None;
        if plan.cat_max_ratio < 1.0 {
            for _ in 0..REFUSALS {
                let found = map.count(corner, plan.crop, buffer);
                if varied(found, plan) {
                    counts = Some(found);
                    break;
                }
                corner = (rng.below(window.0), rng.below(window.1));
            }
        }
        let Some(wanted) = wanted.filter(|wanted| wanted.need > 0.0) else { break };
        let counts = counts.unwrap_or_else(|| map.count(corner, plan.crop, buffer));
        if counts[wanted.class as usize] as f64 > wanted.need {
            break;
        }
    }
    corner
}

/// 1 in the crop where the resized image lies inside of its margins (top, bottom, left, right).
pub fn valid(margins: [usize; 4], region: &Region) -> Array2<u8> {
    let [top, bottom, left, right] = margins;
    let (height, width) = region.resized;
    let (rows, columns) = region.covered();
    let mut out = Array2::zeros(region.crop);
    // Half-open spans of the crop's rows and columns that lie inside.
    let span = |from: usize, count: usize, near: usize, far: usize, length: usize| {
        let end = length.saturating_sub(far).min(from + count);
        let start = near.max(from).min(end.max(from));
        (start - from, end.max(start) - from)
    };
    let (y, x) = (span(region.top, rows, top, bottom, height), span(region.left, columns, left, right, width));
    let x = if region.flipped { (region.crop.1 - x.1, region.crop.1 - x.0) } else { x };
    out.slice_mut(s![y.0..y.1, x.0..x.1]).fill(1);
    out
}
