//! Undoes the row filters of a PNG, in place, for the rows and columns that are needed.
//!
//! A Paeth pixel needs its left neighbour, so a row is one long chain of additions and comparisons. Eight rows are
//! undone at once, each one pixel behind the one above it, in the lanes of two vectors: eight pixels per link of the
//! chain.

use super::png::SLACK;

/// Undoes `rows` rows of `stride` bytes (the first is the filter), the first `bytes` samples of each. `step` is the
/// number of bytes of a pixel, 1 or 3. `data` ends with `png::SLACK` bytes that belong to no row. False where one of
/// them names no known filter.
pub fn undo(data: &mut [u8], stride: usize, rows: usize, bytes: usize, step: usize) -> bool {
    let length = data.len().saturating_sub(SLACK);
    if data[..length].chunks_exact(stride).take(rows).any(|row| row[0] > 4) {
        return false;
    }
    let mut row = 0;
    while row < rows {
        if step == 3 && row > 0 {
            let done = several(&mut data[(row - 1) * stride..], stride, rows - row, bytes / 3);
            if done > 0 {
                row += done;
                continue;
            }
        }
        let (above, this) = data.split_at_mut(row * stride);
        let above = if row == 0 { &[] } else { &above[(row - 1) * stride + 1..][..bytes] };
        let (filter, current) = this[..=bytes].split_at_mut(1);
        if step == 3 {
            one::<3>(filter[0], above, current);
        } else {
            runs(filter[0], above, current);
        }
        row += 1;
    }
    true
}

/// One row of ids. Label maps are made of long runs: where eight pixels continue the row's and the upper row's run, all
/// predictors give that id.
fn runs(filter: u8, above: &[u8], row: &mut [u8]) {
    if above.is_empty() || filter == 0 || filter == 2 {
        return one::<1>(filter, above, row);
    }
    let (mut left, mut corner) = (0u8, 0u8);
    for (block, up) in row.chunks_mut(8).zip(above.chunks(8)) {
        if let (true, Ok(eight), Ok(over)) = (corner == left, <&mut [u8; 8]>::try_from(&mut *block), up.try_into()) {
            if u64::from_ne_bytes(*eight) == 0 && u64::from_ne_bytes(over) == u64::from_ne_bytes([left; 8]) {
                *eight = [left; 8];
                continue;
            }
        }
        for (value, &up) in block.iter_mut().zip(up) {
            let predicted = match filter {
                1 => left,
                3 => ((u16::from(left) + u16::from(up)) / 2) as u8,
                _ => paeth(left.into(), up.into(), corner.into()) as u8,
            };
            *value = value.wrapping_add(predicted);
            (left, corner) = (*value, up);
        }
    }
}

/// One row; `above` is empty for the first one.
fn one<const STEP: usize>(filter: u8, above: &[u8], row: &mut [u8]) {
    match (filter, above.is_empty()) {
        (0, _) | (2, true) => {}
        // In the first row Paeth's predictor is the left pixel.
        (1, _) | (4, true) => {
            let mut left = [0u8; STEP];
            for pixel in row.chunks_exact_mut(STEP) {
                for (value, left) in pixel.iter_mut().zip(&mut left) {
                    *value = value.wrapping_add(*left);
                    *left = *value;
                }
            }
        }
        (2, false) => row.iter_mut().zip(above).for_each(|(value, up)| *value = value.wrapping_add(*up)),
        (3, _) => {
            let mut left = [0u8; STEP];
            for (at, pixel) in row.chunks_exact_mut(STEP).enumerate() {
                for c in 0..STEP {
                    let up = above.get(at * STEP + c).map_or(0, |&up| u16::from(up));
                    left[c] = pixel[c].wrapping_add(((u16::from(left[c]) + up) / 2) as u8);
                    pixel[c] = left[c];
                }
            }
        }
        _ => {
            let (mut left, mut corner) = ([0i16; STEP], [0i16; STEP]);
            for (pixel, up) in row.chunks_exact_mut(STEP).zip(above.chunks_exact(STEP)) {
                for c in 0..STEP {
                    let up = i16::from(up[c]);
                    pixel[c] = pixel[c].wrapping_add(paeth(left[c], up, corner[c]) as u8);
                    (left[c], corner[c]) = (i16::from(pixel[c]), up);
                }
            }
        }
    }
}

/// The one of left, up and corner that is nearest to left + up - corner, ties in this order; without distances.
fn paeth(left: i16, up: i16, corner: i16) -> i16 {
    let threshold = 3 * corner - left - up;
    let (low, high) = (left.min(up), left.max(up));
    let inner = if high <= threshold { low } else { corner };
    if threshold <= low {
        high
    } else {
        inner
    }
}

/// RGB rows below a finished one, which `data` begins with; how many were undone: 0 where this machine or these rows
/// are better served one by one.
fn several(data: &mut [u8], stride: usize, rows: usize, pixels: usize) -> usize {
    #[cfg(target_arch = "x86_64")]
    if rows >= 4 && pixels >= 8 && is_x86_feature_detected!("avx2") {
        let together = if rows >= 8 { 8 } else { 4 };
        let chained = (1..=together).any(|row| !matches!(data[row * stride], 0 | 2));
        // The vector code reads four bytes per pixel: one more than there are.
        if chained && 3 * pixels < stride && data.len() > together * stride + 3 * pixels + 1 {
            // SAFETY: avx2 was found, and the sizes were checked above.
            unsafe {
                if together == 8 {
                    x86::together::<2>(data, stride, pixels);
                } else {
                    x86::together::<1>(data, stride, pixels);
                }
            }
            return together;
        }
    }
    let _ = (data, stride, rows, pixels);
    0
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    /// What 4 x GROUPS rows carry from pixel to pixel. A vector holds 4 rows x (3 channels + one unused lane).
    struct Chain<const GROUPS: usize> {
        above: *const u8,
        rows: [[*mut u8; 4]; GROUPS],
        pixels: usize,
        /// Lanes of the rows that are filtered with Sub, Up, Average and Paeth.
        filters: [[__m256i; 4]; GROUPS],
        left: [__m256i; GROUPS],
        corner: [__m256i; GROUPS],
    }

    /// # Safety
    /// Needs avx2, pixels >= 4 * GROUPS, and in `data` 4 * GROUPS * stride + 3 * pixels + 2 bytes: the finished row and
    /// the rows below it.
    #[target_feature(enable = "avx2")]
    pub unsafe fn together<const GROUPS: usize>(data: &mut [u8], stride: usize, pixels: usize) {
        let row = |group: usize, k: usize| (4 * group + k + 1) * stride;
        let filters: [[u8; 4]; GROUPS] = std::array::from_fn(|group| std::array::from_fn(|k| data[row(group, k)]));
        let start = data.as_mut_ptr();
        let mut chain = Chain::<GROUPS> {
            above: start.add(1),
            rows: std::array::from_fn(|group| std::array::from_fn(|k| start.wrapping_add(row(group, k) + 1))),
            pixels,
            filters: filters.map(|four| [1, 2, 3, 4].map(|kind| lanes(four.map(|filter| filter == kind)))),
            left: [_mm256_setzero_si256(); GROUPS],
            corner: [_mm256_setzero_si256(); GROUPS],
        };
        let lag = 4 * GROUPS - 1;
        for t in 0..lag {
            chain.step::<false>(t);
        }
        for t in lag..pixels {
            chain.step::<true>(t);
        }
        for t in pixels..pixels + lag {
            chain.step::<false>(t);
        }
    }

    #[target_feature(enable = "avx2")]
    unsafe fn lanes(rows: [bool; 4]) -> __m256i {
        let [a, b, c, d] = rows.map(|on| if on { -1 } else { 0 });
        _mm256_set_epi64x(d, c, b, a)
    }

    impl<const GROUPS: usize> Chain<GROUPS> {
        /// Pixel t - k of each row k; with `ALL`, all lie inside of the image.
        ///
        /// # Safety
        /// As `together`; t counts up from 0 to pixels + 4 * GROUPS - 2.
        #[target_feature(enable = "avx2")]
        #[inline]
        unsafe fn step<const ALL: bool>(&mut self, t: usize) {
            let pixels = self.pixels;
            let inside = |k: usize| ALL || (t >= k && t - k < pixels);
            let over = if inside(0) { self.above.add(3 * t).cast::<i32>().read_unaligned() } else { 0 };
            // What a row made in the last step lies above what the next row makes now.
            let mut over = _mm256_cvtepu8_epi16(_mm_cvtsi32_si128(over));
            for group in 0..GROUPS {
                let first = 4 * group;
                let word = |k: usize| {
                    if inside(first + k) {
                        self.rows[group][k].add(3 * (t - first - k)).cast::<i32>().read_unaligned()
                    } else {
                        0
                    }
                };
                let raw = _mm256_cvtepu8_epi16(_mm_set_epi32(word(3), word(2), word(1), word(0)));
                let (left, corner) = (self.left[group], self.corner[group]);
                let up = _mm256_blend_epi32::<0b11>(_mm256_permute4x64_epi64::<0b10_01_00_00>(left), over);
                over = _mm256_permute4x64_epi64::<0b11>(left);

                let tripled = _mm256_sub_epi16(_mm256_add_epi16(corner, _mm256_add_epi16(corner, corner)), up);
                let threshold = _mm256_sub_epi16(tripled, left);
                let (low, high) = (_mm256_min_epi16(left, up), _mm256_max_epi16(left, up));
                let inner = _mm256_blendv_epi8(low, corner, _mm256_cmpgt_epi16(high, threshold));
                let nearest = _mm256_blendv_epi8(high, inner, _mm256_cmpgt_epi16(threshold, low));
                let mean = _mm256_srli_epi16::<1>(_mm256_add_epi16(left, up));
                let [sub, up_too, average, paeth] = self.filters[group];
                let predicted = _mm256_or_si256(
                    _mm256_or_si256(_mm256_and_si256(nearest, paeth), _mm256_and_si256(left, sub)),
                    _mm256_or_si256(_mm256_and_si256(up, up_too), _mm256_and_si256(mean, average)),
                );
                let mut made = _mm256_and_si256(_mm256_add_epi16(raw, predicted), _mm256_set1_epi16(0xff));
                if !ALL && t < first + 3 {
                    // Left of the first pixel there is nothing.
                    made = _mm256_and_si256(made, lanes([0, 1, 2, 3].map(|k| t >= first + k)));
                }
                let packed = _mm256_packus_epi16(made, made);
                let upper = _mm_cvtsi128_si64(_mm256_castsi256_si128(packed)) as u64;
                let lower = _mm_cvtsi128_si64(_mm256_extracti128_si256::<1>(packed)) as u64;
                for (k, value) in [upper, upper >> 32, lower, lower >> 32].into_iter().enumerate() {
                    if inside(first + k) {
                        // Two writes: a fourth byte would belong to the next pixel, which is still filtered.
                        let target = self.rows[group][k].add(3 * (t - first - k));
                        target.cast::<u16>().write_unaligned(value as u16);
                        target.add(2).write((value >> 16) as u8);
                    }
                }
                (self.left[group], self.corner[group]) = (made, up);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    /// The definition, pixel by pixel.
    fn slow(data: &mut [u8], stride: usize, step: usize) {
        let rows = data.len() / stride;
        for y in 0..rows {
            for x in 1..stride {
                let at = |data: &[u8], dy: usize, dx: usize| {
                    if y < dy || x <= dx {
                        0
                    } else {
                        i32::from(data[(y - dy) * stride + x - dx])
                    }
                };
                let (a, b, c) = (at(data, 0, step), at(data, 1, 0), at(data, 1, step));
                let p = a + b - c;
                let nearest = [a, b, c].into_iter().min_by_key(|v| (p - v).abs()).unwrap_or(0);
                let predicted = [0, a, b, (a + b) / 2, nearest][data[y * stride] as usize];
                data[y * stride + x] = data[y * stride + x].wrapping_add(predicted as u8);
            }
        }
    }

    #[test]
    fn equal_to_the_definition() {
        let mut rng = Rng::new(3);
        for case in 0..200 {
            let (rows, pixels) = (1 + rng.below(22).expect("n"), 1 + rng.below(29).expect("n"));
            let step = if case % 4 == 0 { 1 } else { 3 };
            let stride = 1 + step * pixels;
            let mut data: Vec<u8> = (0..rows * stride + SLACK).map(|_| rng.u64() as u8).collect();
            for y in 0..rows {
                data[y * stride] = if case % 3 == 0 { 4 } else { rng.below(5).expect("n") as u8 };
            }
            let mut expected = data[..rows * stride].to_vec();
            slow(&mut expected, stride, step);
            let (some_rows, some) = (1 + rng.below(rows).expect("n"), step * (1 + rng.below(pixels).expect("n")));
            let mut partly = data.clone();
            let length = rows * stride;
            assert!(undo(&mut data, stride, rows, step * pixels, step));
            assert_eq!(data[..length], expected);
            assert!(undo(&mut partly, stride, some_rows, some, step));
            for y in 0..some_rows {
                let row = y * stride..y * stride + 1 + some;
                assert_eq!(partly[row.clone()], expected[row]);
            }
        }
        assert!(!undo(&mut [5; 4 + SLACK], 4, 1, 3, 3));
    }
}
