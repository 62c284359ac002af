//! Which stored pixels a pixel of the resized image comes from: OpenCV's INTER_LINEAR (without antialiasing, 11-bit
//! weights) and INTER_NEAREST, bit by bit, for the part of an axis that a crop shows.

/// A crop of the resized image and where it lies. Sizes are (height, width).
pub struct Region {
    pub top: usize,
    pub left: usize,
    pub stored: (usize, usize),
    pub resized: (usize, usize),
    pub crop: (usize, usize),
    pub flipped: bool,
}

impl Region {
    /// Rows and columns of the crop that the image covers; the others are padding.
    pub fn covered(&self) -> (usize, usize) {
        let part = |crop: usize, length: usize, from: usize| crop.min(length.saturating_sub(from));
        (part(self.crop.0, self.resized.0, self.top), part(self.crop.1, self.resized.1, self.left))
    }

    /// First column of the output that the image covers; the columns go on from there.
    pub fn first_column(&self) -> usize {
        if self.flipped {
            self.crop.1 - self.covered().1
        } else {
            0
        }
    }

    /// Rows and columns of the stored image, counted from its corner, that the crop needs.
    pub fn reach(&self) -> (usize, usize) {
        let (rows, columns) = self.covered();
        if self.resized == self.stored {
            return (self.top + rows, self.left + columns);
        }
        let end = |taps: Vec<Tap>| taps.last().map_or(0, |tap| tap.second + 1);
        (
            end(linear(self.stored.0, self.resized.0, self.top, rows, true)),
            end(linear(self.stored.1, self.resized.1, self.left, columns, false)),
        )
    }
}

/// Two stored pixels and their weights, which add up to 2048.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tap {
    pub first: usize,
    pub second: usize,
    pub weights: [i16; 2],
}

/// Taps of the pixels `from .. from + count` of an axis of `stored` pixels that is resized to `resized`.
///
/// At the ends of an axis OpenCV gives a column the weights (2048, 0), but a row, which it takes twice, those of its
/// place; the sums are rounded differently.
pub fn linear(stored: usize, resized: usize, from: usize, count: usize, rows: bool) -> Vec<Tap> {
    let scale = 1.0 / (resized as f64 / stored as f64);
    let last = stored as i64 - 1;
    (from..from + count)
        .map(|at| {
            let place = ((at as f64 + 0.5) * scale - 0.5) as f32;
            let mut first = place.floor() as i64;
            let mut part = place - first as f32;
            if !rows && (first < 0 || first >= last) {
                first = first.clamp(0, last);
                part = 0.0;
            }
            let weight = |share: f32| (share * 2048.0).round_ties_even() as i16;
            let index = |at: i64| at.clamp(0, last) as usize;
            Tap { first: index(first), second: index(first + 1), weights: [weight(1.0 - part), weight(part)] }
        })
        .collect()
}

/// Stored pixel of each pixel of an axis.
pub fn nearest(stored: usize, resized: usize) -> Vec<usize> {
    let scale = 1.0 / (resized as f64 / stored as f64);
    (0..resized).map(|at| ((at as f64 * scale).floor() as usize).min(stored - 1)).collect()
}
