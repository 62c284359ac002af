//! The crop of an image: resized, flipped, and written as three channel planes in BGR order.

use super::resize::{linear, Region, Tap};
use multiversion::multiversion;
use ndarray::{Array3, ArrayView3, Axis};

/// Rows of interleaved 8-bit pixels with three channels.
pub trait Source {
    /// Row `y`; `buffer` may be used to hold it.
    fn row<'a>(&'a self, y: usize, buffer: &'a mut Vec<u8>) -> &'a [u8];
}

/// Rows as a PNG has them, one byte in front of each.
pub struct Rows<'a> {
    pub bytes: &'a [u8],
    pub stride: usize,
}

impl Source for Rows<'_> {
    fn row<'a>(&'a self, y: usize, _: &'a mut Vec<u8>) -> &'a [u8] {
        &self.bytes[y * self.stride + 1..(y + 1) * self.stride]
    }
}

/// Any array [H, W, 3].
pub struct Pixels<'a> {
    pub pixels: ArrayView3<'a, u8>,
}

impl Source for Pixels<'_> {
    fn row<'a>(&'a self, y: usize, buffer: &'a mut Vec<u8>) -> &'a [u8] {
        let row = self.pixels.index_axis(Axis(0), y);
        match row.to_slice() {
            Some(slice) => slice,
            None => {
                buffer.clear();
                buffer.extend(row.iter());
                buffer
            }
        }
    }
}

/// Writes the region of `source` into `planes` [3, h, w]; what the image does not cover is left as it is.
pub fn cut(source: &impl Source, region: &Region, bgr: bool, planes: &mut Array3<u8>) {
    let order = if bgr { [0, 1, 2] } else { [2, 1, 0] };
    let (rows, columns) = region.covered();
    let (start, (height, width)) = (region.first_column(), region.crop);
    let Some(all) = planes.as_slice_mut() else { return }; // made contiguous by the caller
    let mut targets: [&mut [u8]; 3] = {
        let (blue, rest) = all.split_at_mut(height * width);
        let (green, red) = rest.split_at_mut(height * width);
        [blue, green, red]
    };
    let place = |y: usize| y * width + start..y * width + start + columns;
    let mut buffer = Vec::new();
    if region.resized == region.stored {
        for y in 0..rows {
            let row = &source.row(region.top + y, &mut buffer)[3 * region.left..3 * (region.left + columns)];
            let [a, b, c] = &mut targets;
            split(row, order, region.flipped, [&mut a[place(y)], &mut b[place(y)], &mut c[place(y)]]);
        }
        return;
    }
    let mut across = linear(region.stored.1, region.resized.1, region.left, columns, false);
    if region.flipped {
        across.reverse();
    }
    let down = linear(region.stored.0, region.resized.0, region.top, rows, true);
    // Two stored rows, resized across: three planes each.
    let mut lines = [vec![0i16; 3 * columns], vec![0i16; 3 * columns]];
    let mut held = [usize::MAX; 2];
    for (y, tap) in down.iter().enumerate() {
        let mut slots = [0; 2];
        for (i, needed) in [tap.first, tap.second].into_iter().enumerate() {
            slots[i] = match held.iter().position(|&row| row == needed) {
                Some(slot) => slot,
                None => {
                    let slot = usize::from(held[0] == tap.first);
                    squeeze(source.row(needed, &mut buffer), &across, order, &mut lines[slot]);
                    held[slot] = needed;
                    slot
                }
            };
        }
        for (c, target) in targets.iter_mut().enumerate() {
            let line = |slot: usize| &lines[slot][c * columns..(c + 1) * columns];
            blend(line(slots[0]), line(slots[1]), tap.weights, &mut target[place(y)]);
        }
    }
}

/// Interleaved pixels into planes.
fn split(row: &[u8], order: [usize; 3], flipped: bool, planes: [&mut [u8]; 3]) {
    for (plane, c) in planes.into_iter().zip(order) {
        let pixels = row.chunks_exact(3).map(|pixel| pixel[c]);
        if flipped {
            plane.iter_mut().rev().zip(pixels).for_each(|(to, from)| *to = from);
        } else {
            plane.iter_mut().zip(pixels).for_each(|(to, from)| *to = from);
        }
    }
}

/// Resizes a row across, into planes; values are 128 times those of the pixels.
fn squeeze(row: &[u8], across: &[Tap], order: [usize; 3], line: &mut [i16]) {
    let (a, rest) = line.split_at_mut(across.len());
    let (b, c) = rest.split_at_mut(across.len());
    for (((tap, a), b), c) in across.iter().zip(a).zip(b).zip(c) {
        let (p, q) = (&row[3 * tap.first..3 * tap.first + 3], &row[3 * tap.second..3 * tap.second + 3]);
        let [v, w] = tap.weights.map(i32::from);
        let mixed = |c: usize| ((i32::from(p[c]) * v + i32::from(q[c]) * w) >> 4) as i16;
        (*a, *b, *c) = (mixed(order[0]), mixed(order[1]), mixed(order[2]));
    }
}

/// Mixes two rows as OpenCV's vector code does: both products lose their low half before they are added.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn blend(upper: &[i16], lower: &[i16], weights: [i16; 2], out: &mut [u8]) {
    for ((out, &u), &l) in out.iter_mut().zip(upper).zip(lower) {
        let high = |value: i16, weight: i16| ((i32::from(value) * i32::from(weight)) >> 16) as i16;
        *out = ((high(u, weights[0]) + high(l, weights[1]) + 2) >> 2) as u8;
    }
}
