//! Geometry of two overlapping crops: drawing them, cutting them out, and finding the feature cells they share.
//!
//! Pixels and cells are half-open boxes (top, left, bottom, right). A flip mirrors a patch left-right after cutting.
//! Cell i of a feature map at stride s looks at pixels [i s, (i+1) s) of its (flipped) patch. Two patches share cells
//! exactly where their cell grids fall on each other in the image: an unflipped patch has its left edge on the grid, a
//! flipped one its right edge.

use crate::error::{Error, Result};
use crate::rng::Rng;
use tch::Tensor;

/// Half-open box in pixels or cells of whatever map it refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BoxYX {
    pub top: i64,
    pub left: i64,
    pub bottom: i64,
    pub right: i64,
}

impl BoxYX {
    pub fn height(&self) -> i64 {
        self.bottom.saturating_sub(self.top)
    }
    pub fn width(&self) -> i64 {
        self.right.saturating_sub(self.left)
    }

    /// The box is not empty and lies inside a map of `height` x `width`.
    pub fn check_within(&self, height: i64, width: i64, name: &str) -> Result<()> {
        let inside = 0 <= self.top && self.top < self.bottom && self.bottom <= height;
        if inside && 0 <= self.left && self.left < self.right && self.right <= width {
            return Ok(());
        }
        Err(Error::value(format!(
            "{name}: expected a non-empty (top, left, bottom, right) inside {height} x {width}, got ({}, {}, {}, {})",
            self.top, self.left, self.bottom, self.right
        )))
    }
}

/// Two crops of one image; boxes in image pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PatchPair {
    pub box1: BoxYX,
    pub box2: BoxYX,
    pub flip1: bool,
    pub flip2: bool,
}

/// Draws pairs of crops of one size whose overlap is in a range.
#[derive(Clone, Debug)]
pub struct PatchSampler {
    /// Height and width of each crop, pixels.
    pub size: (i64, i64),
    /// Bounds of the intersection over union of the two crops.
    pub min_iou: f64,
    pub max_iou: f64,
    /// Mirror each crop with probability one half.
    pub flip: bool,
    /// Output stride of the features (or a multiple): crops are placed so that their cells coincide.
    pub align: i64,
}

/// Longest image side in pixels; far above any image, so that sums of edges never overflow.
const LARGEST: i64 = 1 << 20;

/// Places `first, first + step, ...` (`count` of them) of a crop along one axis.
#[derive(Clone, Copy, Debug)]
struct Line {
    first: i64,
    count: i64,
    step: i64,
}

impl Line {
    /// Starts of a crop of length `size` in `total` pixels whose left edge (right edge if mirrored) is on the grid.
    fn new(total: i64, size: i64, step: i64, mirrored: bool) -> Self {
        let first = if mirrored { (-size).rem_euclid(step) } else { 0 };
        let room = total - size - first;
        Self { first, count: if room < 0 { 0 } else { room / step + 1 }, step }
    }

    fn last(&self) -> i64 {
        self.first + (self.count - 1) * self.step
    }

    /// Places p of this line for which p - distance is a place of `other`: the first one and how many.
    fn pairs(&self, other: &Line, distance: i64) -> (i64, i64) {
        let low = self.first.max(other.first + distance);
        let high = self.last().min(other.last() + distance);
        (low, if high < low { 0 } else { (high - low) / self.step + 1 })
    }

    /// All distances between places of this line and of `other`, with the number of pairs at that distance.
    fn distances(&self, other: &Line) -> Vec<(i64, i64)> {
        if self.count == 0 || other.count == 0 {
            return Vec::new();
        }
        let (low, high) = (self.first - other.last(), self.last() - other.first);
        (low..=high).step_by(self.step as usize).map(|d| (d, self.pairs(other, d).1)).collect()
    }
}

impl PatchSampler {
    /// A pair drawn uniformly from all pairs of places on the grid that fulfil the request; an error if there is none.
    pub fn draw(&self, height: i64, width: i64, rng: &mut Rng) -> Result<PatchPair> {
        self.check(height, width)?;
        let flip1 = self.flip && rng.uniform(0.0, 1.0) < 0.5;
        let flip2 = self.flip && rng.uniform(0.0, 1.0) < 0.5;
        let (h, w) = self.size;
        let line = Line::new(height, h, self.align, false);
        let (line1, line2) = (Line::new(width, w, self.align, flip1), Line::new(width, w, self.align, flip2));
        let mut ys = line.distances(&line);
        ys.retain(|&(d, _)| self.cells(h, d, (false, false)) > 0);
        let mut xs = line1.distances(&line2);
        xs.retain(|&(d, _)| self.cells(w, d, (flip1, flip2)) > 0);
        if xs.is_empty() || ys.is_empty() {
            return Err(self.impossible(
                height,
                width,
                &format!("no two places on a grid of {} px share a cell", self.align),
            ));
        }
        // The IoU falls with the distance: for every dy the fitting dx are one range of the distances sorted by length.
        xs.sort_by_key(|&(d, _)| d.abs());
        let sums: Vec<f64> = std::iter::once(0.0).chain(xs.iter().scan(0.0, running)).collect();
        let fitting = |dy: i64| {
            let first = xs.partition_point(|&(dx, _)| self.iou(dy, dx) > self.max_iou + 1e-12);
            (first, xs.partition_point(|&(dx, _)| self.iou(dy, dx) >= self.min_iou - 1e-12).max(first))
        };
        let weights: Vec<f64> = ys
            .iter()
            .map(|&(dy, pairs)| {
                let (first, last) = fitting(dy);
                pairs as f64 * (sums[last] - sums[first])
            })
            .collect();
        let total: f64 = weights.iter().sum();
        if total <= 0.0 {
            let nearest = |d: &[(i64, i64)]| d.iter().map(|&(d, _)| d.abs()).min().unwrap_or(0);
            let farthest = |d: &[(i64, i64)]| d.iter().map(|&(d, _)| d.abs()).max().unwrap_or(0);
            let highest = self.iou(nearest(&ys), nearest(&xs));
            let lowest = self.iou(farthest(&ys), farthest(&xs));
            let align = self.align;
            let reach = format!("places on a grid of {align} px reach IoU {lowest:.4} to {highest:.4}, in steps");
            return Err(self.impossible(height, width, &reach));
        }
        let (dy, _) = ys[pick(&weights, rng.uniform(0.0, total))];
        let (first, last) = fitting(dy);
        let ticket = rng.uniform(sums[first], sums[last]);
        let (dx, _) = xs[sums.partition_point(|&sum| sum <= ticket).clamp(first + 1, last) - 1];
        let place = |from: &Line, to: &Line, d: i64, rng: &mut Rng| -> Result<i64> {
            let (first, count) = from.pairs(to, d);
            Ok(first + from.step * rng.below(count as usize)? as i64)
        };
        let top = place(&line, &line, dy, rng)?;
        let left = place(&line1, &line2, dx, rng)?;
        let at = |top: i64, left: i64| BoxYX { top, left, bottom: top + h, right: left + w };
        Ok(PatchPair { box1: at(top, left), box2: at(top - dy, left - dx), flip1, flip2 })
    }

    fn impossible(&self, height: i64, width: i64, reach: &str) -> Error {
        Error::value(format!(
            "patch sampler: no two {} x {} crops of a {height} x {width} image have an IoU in [{}, {}]: {reach}{}",
            self.size.0,
            self.size.1,
            self.min_iou,
            self.max_iou,
            if self.flip { " (for the flips drawn)" } else { "" }
        ))
    }

    fn check(&self, height: i64, width: i64) -> Result<()> {
        let (h, w) = self.size;
        if h < 1 || w < 1 || self.align < 1 {
            return Err(Error::value(format!(
                "patch sampler: expected a positive size and align, got {h} x {w} and {}",
                self.align
            )));
        }
        if height > LARGEST || width > LARGEST || self.align > LARGEST {
            return Err(Error::value(format!(
                "patch sampler: image sides and align up to {LARGEST} px are handled, got {height} x {width} and {}",
                self.align
            )));
        }
        if h > height || w > width {
            return Err(Error::value(format!(
                "patch sampler: a {h} x {w} crop does not fit into a {height} x {width} image"
            )));
        }
        if !(0.0 <= self.min_iou && self.min_iou <= self.max_iou && self.max_iou <= 1.0) {
            return Err(Error::value(format!(
                "patch sampler: expected 0 <= min_iou <= max_iou <= 1, got {} and {}",
                self.min_iou, self.max_iou
            )));
        }
        Ok(())
    }

    fn iou(&self, dy: i64, dx: i64) -> f64 {
        let (h, w) = (self.size.0 as f64, self.size.1 as f64);
        let shared = (h - dy.abs() as f64).max(0.0) * (w - dx.abs() as f64).max(0.0);
        shared / (2.0 * h * w - shared)
    }

    /// Whole grid cells that two crops share along an axis, the first one `d` px after the second.
    fn cells(&self, size: i64, d: i64, mirrored: (bool, bool)) -> i64 {
        // Only phases matter. An unmirrored crop starts on the grid, so it may lie at 0 and the other one beside it; of
        // two mirrored crops, which both end on the grid, the same holds from right to left.
        let beside = match mirrored {
            (true, false) => d,
            (false, true) => -d,
            _ => -d.abs(),
        };
        let (start, end) = (0.max(beside), size.min(beside + size));
        let (start, end) = if mirrored.0 == mirrored.1 { (0, end - start) } else { (start, end) };
        shared_cells(start, end, 0, self.align).map_or(0, |(first, last)| (last - first) / self.align)
    }
}

/// Running sum of the pair counts.
fn running(sum: &mut f64, &(_, pairs): &(i64, i64)) -> Option<f64> {
    *sum += pairs as f64;
    Some(*sum)
}

/// Position of the weight that holds `ticket` when the weights are laid end to end.
fn pick(weights: &[f64], mut ticket: f64) -> usize {
    let mut last = 0;
    for (i, &weight) in weights.iter().enumerate().filter(|&(_, &weight)| weight > 0.0) {
        last = i;
        if ticket < weight {
            break;
        }
        ticket -= weight;
    }
    last
}

/// Largest [first, last) inside [start, end) whose ends lie on the grid `phase + k step`; None if it is empty.
fn shared_cells(start: i64, end: i64, phase: i64, step: i64) -> Option<(i64, i64)> {
    let first = start + (phase - start).rem_euclid(step);
    let last = end - (end - phase).rem_euclid(step);
    (first < last).then_some((first, last))
}

impl PatchPair {
    /// Both crops of `image_bchw` (images, labels or weights alike), mirrored where the pair says so.
    pub fn crop(&self, image_bchw: &Tensor) -> Result<(Tensor, Tensor)> {
        crate::shape::check_rank(image_bchw, 4, "image_bchw", "[B,C,H,W]")?;
        let size = image_bchw.size();
        let cut = |area: BoxYX, flip: bool, name: &str| -> Result<Tensor> {
            area.check_within(size[2], size[3], name)?;
            let patch = image_bchw.f_narrow(2, area.top, area.height())?.f_narrow(3, area.left, area.width())?;
            Ok(if flip { patch.f_flip([3])? } else { patch })
        };
        Ok((cut(self.box1, self.flip1, "box1")?, cut(self.box2, self.flip2, "box2")?))
    }

    /// The shared cells of both patches (after their flips) in feature maps of `feature_h` x `feature_w`.
    ///
    /// Row r, column c of the first box and the corresponding cell of the second (mirrored when exactly one patch is
    /// flipped) look at the same image pixels. Cells at a ragged border that look beyond a patch are left out.
    pub fn overlap_on(&self, feature_h: i64, feature_w: i64) -> Result<(BoxYX, BoxYX)> {
        self.box1.check_within(LARGEST, LARGEST, "box1")?;
        self.box2.check_within(LARGEST, LARGEST, "box2")?;
        let (h, w) = (self.box1.height(), self.box1.width());
        if (h, w) != (self.box2.height(), self.box2.width()) {
            return Err(Error::value(format!(
                "patch pair: expected two crops of one size, got {h} x {w} and {} x {}",
                self.box2.height(),
                self.box2.width()
            )));
        }
        let y = along(h, feature_h, "feature_h", (self.box1.top, false), (self.box2.top, false))?;
        let x = along(w, feature_w, "feature_w", (self.box1.left, self.flip1), (self.box2.left, self.flip2))?;
        let make = |y: (i64, i64), x: (i64, i64)| BoxYX { top: y.0, left: x.0, bottom: y.1, right: x.1 };
        Ok((make(y.0, x.0), make(y.1, x.1)))
    }
}

type Span = (i64, i64);

/// Shared cells along one axis for crops of length `size` at `(start, mirrored)`, as spans of cells of each crop.
fn along(size: i64, cells: i64, name: &str, one: (i64, bool), two: (i64, bool)) -> Result<(Span, Span)> {
    let strides = strides(size, cells);
    if strides.is_empty() {
        return Err(Error::value(format!("{name}: no whole stride maps a crop of {size} px to {cells} cells")));
    }
    // The edge of a crop where its cell 0 begins.
    let origin = |(start, mirrored): (i64, bool)| if mirrored { start + size } else { start };
    let Some(&stride) = strides.iter().find(|&&s| (origin(one) - origin(two)).rem_euclid(s) == 0) else {
        return Err(Error::value(format!(
            "{name}: the crops lie {} px apart, not a multiple of the stride {}: draw them with that align",
            (origin(one) - origin(two)).abs(),
            strides[0]
        )));
    };
    let (start, end) = (one.0.max(two.0), one.0.min(two.0) + size);
    let Some((first, last)) = shared_cells(start, end, origin(one), stride) else {
        return Err(Error::value(format!("patch pair: the crops share no whole cell of {stride} px along {name}")));
    };
    let span = |crop: (i64, bool)| {
        let edge = origin(crop);
        let (a, b) = if crop.1 { (edge - last, edge - first) } else { (first - edge, last - edge) };
        (a / stride, (b / stride).min(cells))
    };
    let (a, b) = (span(one), span(two));
    if a.1 - a.0 != b.1 - b.0 || a.0 >= a.1 {
        return Err(Error::value(format!("{name}: {cells} cells of {stride} px do not cover the shared part")));
    }
    Ok((a, b))
}

/// Strides that can have made `cells` cells of `size` pixels, likeliest first: padded power of two (all usual
/// backbones), exact division, unpadded power of two.
fn strides(size: i64, cells: i64) -> Vec<i64> {
    if cells < 1 || size < 1 || cells > size {
        return Vec::new();
    }
    let powers = || (0..32).map(|k| 1i64 << k).filter(|&s| s <= size.saturating_mul(2));
    let mut found: Vec<i64> = powers().filter(|&s| (size - 1) / s + 1 == cells).collect();
    if size % cells == 0 {
        found.push(size / cells);
    }
    found.extend(powers().filter(|&s| size / s == cells));
    found
}

#[cfg(test)]
mod tests;
