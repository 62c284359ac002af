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
    let (rows, columns) = region.covered();
    let (start, (height, width)) = (region.first_column(), region.crop);
    let Some(all) = planes.as_slice_mut() else { return }; // made contiguous by the caller
    let mut targets: [&mut [u8]; 3] = {
        let (blue, rest) = all.split_at_mut(height * width);
        let (green, red) = rest.split_at_mut(height * width);
        [blue, green, red]
    };
    if !bgr {
        targets.reverse(); // now in the order of the source's channels
    }
    let place = |y: usize| y * width + start..y * width + start + columns;
    let mut buffer = Vec::new();
    if region.resized == region.stored {
        for y in 0..rows {
            let row = &source.row(region.top + y, &mut buffer)[3 * region.left..3 * (region.left + columns)];
            let [a, b, c] = &mut targets;
            let mut planes = [&mut a[place(y)], &mut b[place(y)], &mut c[place(y)]];
            split(row, &mut planes);
            if region.flipped {
                planes.into_iter().for_each(|plane| plane.reverse());
            }
        }
        return;
    }
    let mut across = linear(region.stored.1, region.resized.1, region.left, columns, false);
    if region.flipped {
        across.reverse();
    }
    let mut across = Across::new(&across);
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
                    across.squeeze(source.row(needed, &mut buffer), &mut lines[slot]);
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

/// Interleaved pixels into planes, the first channel into the first one.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn split(row: &[u8], planes: &mut [&mut [u8]; 3]) {
    let [a, b, c] = planes;
    let n = row.len() / 3;
    let (a, b, c, row) = (&mut a[..n], &mut b[..n], &mut c[..n], &row[..3 * n]);
    for i in 0..n {
        (a[i], b[i], c[i]) = (row[3 * i], row[3 * i + 1], row[3 * i + 2]);
    }
}

/// Resizes rows across.
struct Across {
    /// Where the two stored pixels of each column begin in a row.
    places: Vec<u32>,
    /// Of the first and of the second: weights, and the pixels of a row (the lowest three bytes).
    weights: [Vec<u32>; 2],
    pixels: [Vec<u32>; 2],
}

impl Across {
    fn new(taps: &[Tap]) -> Across {
        let weights = |i: usize| taps.iter().map(|tap| tap.weights[i] as u32).collect();
        // The second pixel is the next one, or weighs nothing.
        let places = taps.iter().map(|tap| 3 * tap.first as u32).collect();
        let pixels = [vec![0; taps.len()], vec![0; taps.len()]];
        Across { places, weights: [weights(0), weights(1)], pixels }
    }

    /// Into planes; values are 128 times those of the pixels.
    fn squeeze(&mut self, row: &[u8], line: &mut [i16]) {
        let [first, second] = &mut self.pixels;
        for ((&place, first), second) in self.places.iter().zip(first).zip(second) {
            let pair = pair(row, place as usize);
            (*first, *second) = (pair as u32, (pair >> 24) as u32);
        }
        for (plane, channel) in line.chunks_exact_mut(self.places.len()).zip(0..) {
            mix(&self.pixels, &self.weights, channel, plane);
        }
    }
}

/// Two pixels, the first one lowest.
fn pair(row: &[u8], place: usize) -> u64 {
    match row.get(place..place + 8).and_then(|eight| eight.try_into().ok()) {
        Some(eight) => u64::from_le_bytes(eight),
        None => row[place..].iter().rev().fold(0, |pair, &byte| pair << 8 | u64::from(byte)),
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn mix(pixels: &[Vec<u32>; 2], weights: &[Vec<u32>; 2], channel: u32, plane: &mut [i16]) {
    let part = |pixel: u32, weight: u32| (pixel >> (8 * channel) & 255) * weight;
    let first = pixels[0].iter().zip(&weights[0]);
    let second = pixels[1].iter().zip(&weights[1]);
    for ((out, (&p, &v)), (&q, &w)) in plane.iter_mut().zip(first).zip(second) {
        *out = ((part(p, v) + part(q, w)) >> 4) as i16;
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
