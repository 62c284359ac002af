//! Undoes the row filters of a PNG, in place, for the rows and columns that are needed.
//!
//! A Paeth pixel needs its left neighbour, so a row is one long chain of additions and comparisons. Four rows are
//! undone at once, each one pixel behind the one above it, in the lanes of one vector: four pixels per link of the chain.

use super::png::SLACK;

/// Undoes `rows` rows of `stride` bytes (the first is the filter), the first `bytes` samples of each. `step` is the
/// number of bytes of a pixel, 1 or 3. `data` ends with `png::SLACK` bytes that belong to no row. False where a row names
/// no known filter, needed or not.
pub fn undo(data: &mut [u8], stride: usize, rows: usize, bytes: usize, step: usize) -> bool {
    let length = data.len().saturating_sub(SLACK);
    if data[..length].chunks_exact(stride).any(|row| row[0] > 4) {
        return false;
    }
    let mut row = 0;
    while row < rows {
        if step == 3 && row > 0 && row + 4 <= rows && four(&mut data[(row - 1) * stride..], stride, bytes / 3) {
            row += 4;
            continue;
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
        if corner == left && block == &[0; 8][..block.len()] && up == &[left; 8][..up.len()] {
            block.fill(left);
            continue;
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

/// Four RGB rows below a finished one, which `data` begins with; false where this machine or these rows are better
/// served one by one.
fn four(data: &mut [u8], stride: usize, pixels: usize) -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        let filters = [1, 2, 3, 4].map(|row| data[row * stride]);
        let chained = filters.iter().any(|&filter| filter != 0 && filter != 2);
        if chained && pixels >= 4 && is_x86_feature_detected!("avx2") {
            // The vector code reads four bytes per pixel: one more than there are.
            assert!(3 * pixels < stride && data.len() > 4 * stride + 3 * pixels + 1);
            // SAFETY: avx2 was found, and the sizes were checked above.
            unsafe { x86::four(data, stride, pixels, filters) };
            return true;
        }
    }
    let _ = (data, stride, pixels);
    false
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    /// Step t handles pixel t - k of row k. A vector holds 4 rows x (3 channels + one lane of rubbish).
    ///
    /// # Safety
    /// Needs avx2, and `data` must hold 4 * stride + 3 * pixels + 2 bytes: the finished row and the four below it.
    #[target_feature(enable = "avx2")]
    pub unsafe fn four(data: &mut [u8], stride: usize, pixels: usize, filters: [u8; 4]) {
        let above = data.as_mut_ptr().add(1);
        let row: [*mut u8; 4] = [1, 2, 3, 4].map(|k| above.add(k * stride));
        let mask = |filter: u8| {
            let lanes = filters.map(|f| if f == filter { -1i64 } else { 0 });
            _mm256_set_epi64x(lanes[3], lanes[2], lanes[1], lanes[0])
        };
        let (sub, up_mask, average, paeth) = (mask(1), mask(2), mask(3), mask(4));
        let byte = _mm256_set1_epi16(0xff);
        let (mut left, mut corner) = (_mm256_setzero_si256(), _mm256_setzero_si256());
        for t in 0..pixels + 3 {
            let mut words = [0u32; 4];
            let inside = t >= 3 && t < pixels;
            for k in 0..4 {
                if inside || (t >= k && t - k < pixels) {
                    words[k] = row[k].add(3 * (t - k)).cast::<u32>().read_unaligned();
                }
            }
            let top = if t < pixels { above.add(3 * t).cast::<u32>().read_unaligned() } else { 0 };
            let raw =
                _mm256_cvtepu8_epi16(_mm_set_epi32(words[3] as i32, words[2] as i32, words[1] as i32, words[0] as i32));
            let first = _mm256_cvtepu8_epi16(_mm_cvtsi32_si128(top as i32));
            // What a row made in the last step lies above what the next row makes now.
            let up = _mm256_blend_epi32::<0b11>(_mm256_permute4x64_epi64::<0b10_01_00_00>(left), first);

            let tripled = _mm256_sub_epi16(_mm256_add_epi16(corner, _mm256_add_epi16(corner, corner)), up);
            let threshold = _mm256_sub_epi16(tripled, left);
            let (low, high) = (_mm256_min_epi16(left, up), _mm256_max_epi16(left, up));
            let inner = _mm256_blendv_epi8(low, corner, _mm256_cmpgt_epi16(high, threshold));
            let nearest = _mm256_blendv_epi8(high, inner, _mm256_cmpgt_epi16(threshold, low));
            let mean = _mm256_srli_epi16::<1>(_mm256_add_epi16(left, up));
            let predicted = _mm256_or_si256(
                _mm256_or_si256(_mm256_and_si256(nearest, paeth), _mm256_and_si256(left, sub)),
                _mm256_or_si256(_mm256_and_si256(up, up_mask), _mm256_and_si256(mean, average)),
            );
            let mut made = _mm256_and_si256(_mm256_add_epi16(raw, predicted), byte);
            if t < 3 {
                // Left of the first pixel there is nothing.
                let lanes = [0, 1, 2, 3].map(|k| if k <= t { -1i64 } else { 0 });
                made = _mm256_and_si256(made, _mm256_set_epi64x(lanes[3], lanes[2], lanes[1], lanes[0]));
            }
            let packed = _mm256_packus_epi16(made, made);
            let lower = _mm_cvtsi128_si64(_mm256_castsi256_si128(packed)) as u64;
            let upper = _mm_cvtsi128_si64(_mm256_extracti128_si256::<1>(packed)) as u64;
            let results = [lower as u32, (lower >> 32) as u32, upper as u32, (upper >> 32) as u32];
            for k in 0..4 {
                if inside || (t >= k && t - k < pixels) {
                    let target = row[k].add(3 * (t - k));
                    target.cast::<u16>().write_unaligned(results[k] as u16);
                    target.add(2).write((results[k] >> 16) as u8);
                }
            }
            (left, corner) = (made, up);
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
            let (rows, pixels) = (1 + rng.below(14).expect("n"), 1 + rng.below(19).expect("n"));
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
