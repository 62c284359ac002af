//! Gaussian blur with a reflected border. Rows and columns are blurred one after the other: the sum over a k x k kernel
//! that the released code takes becomes two sums over k taps, with the same result up to rounding.

use crate::error::{Error, Result};
use crate::host::slice::{output, view};
use crate::host::{self, pool};
use crate::shape::{check_float, check_rank};
use crate::transfer::to_device;
use multiversion::multiversion;
use rayon::prelude::*;
use tch::{Kind, Tensor};

/// Kernel height and width that the strong augmentation uses: about a tenth of the image, odd.
pub fn blur_kernel_size(height: i64, width: i64) -> (i64, i64) {
    let odd = |n: i64| {
        let tenth = (0.1 * n as f64).ceil();
        (tenth - 0.5 + tenth % 2.0).floor() as i64
    };
    (odd(height), odd(width))
}

/// `sigma` in pixels; `kernel` height and width, odd, each less than twice the image's size (reflection needs that).
pub(super) fn check(sigma: f64, kernel: (i64, i64), height: i64, width: i64) -> Result<()> {
    if !sigma.is_finite() || sigma <= 0.0 {
        return Err(Error::value(format!("sigma: expected a positive number of pixels, got {sigma}")));
    }
    for (k, n, name) in [(kernel.0, height, "height"), (kernel.1, width, "width")] {
        if k < 1 || k % 2 == 0 || k / 2 >= n {
            return Err(Error::value(format!(
                "kernel_size: expected an odd {name} whose half is less than the image's {name} {n}, got {k}"
            )));
        }
    }
    Ok(())
}

/// Weights exp(-x^2 / 2 sigma^2) of `size` taps, normalised to sum 1.
fn taps(sigma: f64, size: i64) -> Vec<f64> {
    let half = (size / 2) as f64;
    let raw: Vec<f64> = (0..size).map(|i| (-0.5 * ((i as f64 - half) / sigma).powi(2)).exp()).collect();
    let sum: f64 = raw.iter().sum();
    raw.into_iter().map(|w| w / sum).collect()
}

/// The taps without outer ones that together weigh less than 1e-8: below f32's resolution of the result, and at
/// sigma 1 a kernel of 103 taps becomes one of 13.
fn short_taps(sigma: f64, size: i64) -> Vec<f64> {
    let all = taps(sigma, size);
    let (mut first, mut dropped) = (0, 0.0);
    while first < all.len() / 2 && dropped + 2.0 * all[first] < 1e-8 {
        dropped += 2.0 * all[first];
        first += 1;
    }
    all[first..all.len() - first].to_vec()
}

/// The taps that count in the dtype of the computation.
fn taps_of(sigma: f64, size: i64, kind: Kind) -> Vec<f64> {
    if kind == Kind::Double {
        taps(sigma, size)
    } else {
        short_taps(sigma, size)
    }
}

/// Gaussian blur of each channel of [B,C,H,W] with a `kernel` (height, width) of odd sizes and a reflected border (the
/// edge pixel is not repeated). New tensor, same dtype; half precision is computed in f32. Taps that together weigh less
/// than 1e-8 are left out, except in f64.
pub fn gaussian_blur(image_bchw: &Tensor, sigma: f64, kernel: (i64, i64)) -> Result<Tensor> {
    check_rank(image_bchw, 4, "img_bchw", "[B,C,H,W]")?;
    check_float(image_bchw, "img_bchw")?;
    let size = image_bchw.size();
    check(sigma, kernel, size[2], size[3])?;
    let kind = image_bchw.f_kind()?;
    if host::fused_without_grad(&[image_bchw]) && kind != Kind::Double && image_bchw.numel() > 0 {
        let input = view::<f32>(image_bchw)?;
        let mut result = output::<f32>(&size)?;
        blur_host(&input, &mut result, size[2] as usize, size[3] as usize, sigma, kernel);
        return Ok(result.into_tensor().f_to_kind(kind)?);
    }
    blur_ops(image_bchw, sigma, kernel)
}

pub(super) fn blur_ops(image: &Tensor, sigma: f64, kernel: (i64, i64)) -> Result<Tensor> {
    let (kind, size) = (image.f_kind()?, image.size());
    let wide = if kind == Kind::Double { kind } else { Kind::Float };
    let line = |taps: &[f64], shape: [i64; 4]| -> Result<Tensor> {
        to_device(&Tensor::f_from_slice(taps)?.f_view(shape)?, image.device(), wide)
    };
    let (vertical, horizontal) = (taps_of(sigma, kernel.0, wide), taps_of(sigma, kernel.1, wide));
    let (ry, rx) = (vertical.len() as i64 / 2, horizontal.len() as i64 / 2);
    let planes = image.f_to_kind(wide)?.f_reshape([-1, 1, size[2], size[3]])?.f_reflection_pad2d([rx, rx, ry, ry])?;
    let columns = planes.f_conv2d::<Tensor>(&line(&vertical, [1, 1, -1, 1])?, None, [1, 1], [0, 0], [1, 1], 1)?;
    let both = columns.f_conv2d::<Tensor>(&line(&horizontal, [1, 1, 1, -1])?, None, [1, 1], [0, 0], [1, 1], 1)?;
    Ok(both.f_reshape(&size)?.f_to_kind(kind)?)
}

/// Rows of one parallel task.
const BAND: usize = 16;
/// Pixels whose sums stay in registers while the taps pass.
const STRIP: usize = 64;

/// All planes of `image` into `out`.
pub(super) fn blur_host(image: &[f32], out: &mut [f32], height: usize, width: usize, sigma: f64, kernel: (i64, i64)) {
    let narrow = |size: i64| -> Vec<f32> { short_taps(sigma, size).into_iter().map(|w| w as f32).collect() };
    let (vertical, horizontal) = (narrow(kernel.0), narrow(kernel.1));
    let pixels = height * width;
    pool::run(|| {
        out.par_chunks_mut(pixels).zip(image.par_chunks(pixels)).for_each(|(out, plane)| {
            out.par_chunks_mut(BAND * width).enumerate().for_each_init(
                || vec![0f32; width + horizontal.len() - 1],
                |row, (band, out)| {
                    for (i, out) in out.chunks_exact_mut(width).enumerate() {
                        blur_row(plane, width, band * BAND + i, &vertical, &horizontal, row, out);
                    }
                },
            );
        });
    });
}

/// Index -n..2n-1 folded back into 0..n at the borders.
#[inline(always)]
fn reflect(i: isize, n: usize) -> usize {
    let last = n as isize - 1;
    let i = i.abs();
    (if i > last { 2 * last - i } else { i }) as usize
}

/// Output row `y` of a plane. `row` is scratch space: the vertical sums, with room for the reflected ends.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn blur_row(
    plane: &[f32],
    width: usize,
    y: usize,
    vertical: &[f32],
    horizontal: &[f32],
    row: &mut [f32],
    out: &mut [f32],
) {
    let height = plane.len() / width;
    let (ry, rx) = (vertical.len() / 2, horizontal.len() / 2);
    let mut start = 0;
    while start < width {
        let n = STRIP.min(width - start);
        let mut sums = [0f32; STRIP];
        for (k, &w) in vertical.iter().enumerate() {
            let from = reflect((y + k) as isize - ry as isize, height) * width + start;
            if n == STRIP {
                let source = &plane[from..from + STRIP];
                for i in 0..STRIP {
                    sums[i] = w.mul_add(source[i], sums[i]);
                }
            } else {
                for (s, &v) in sums.iter_mut().zip(&plane[from..from + n]) {
                    *s += w * v;
                }
            }
        }
        row[rx + start..rx + start + n].copy_from_slice(&sums[..n]);
        start += n;
    }
    for i in 1..=rx {
        row[rx - i] = row[rx + reflect(i as isize, width)];
        row[rx + width - 1 + i] = row[rx + reflect((width - 1 + i) as isize, width)];
    }
    let mut start = 0;
    while start < width {
        let n = STRIP.min(width - start);
        let mut sums = [0f32; STRIP];
        for (k, &w) in horizontal.iter().enumerate() {
            if n == STRIP {
                let source = &row[start + k..start + k + STRIP];
                for i in 0..STRIP {
                    sums[i] = w.mul_add(source[i], sums[i]);
                }
            } else {
                for (s, &v) in sums.iter_mut().zip(&row[start + k..start + k + n]) {
                    *s += w * v;
                }
            }
        }
        out[start..start + n].copy_from_slice(&sums[..n]);
        start += n;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_sizes_are_odd_tenths() {
        assert_eq!(blur_kernel_size(1024, 512), (103, 51));
        assert_eq!(blur_kernel_size(40, 96), (3, 9));
        assert_eq!(blur_kernel_size(1, 10), (1, 1));
    }

    #[test]
    fn left_out_taps_weigh_nothing() {
        let short = short_taps(1.0, 103);
        assert!(short.len() < 16 && short.len() % 2 == 1, "{}", short.len());
        assert!((short.iter().sum::<f64>() - 1.0).abs() < 1e-6);
        assert_eq!(short_taps(20.0, 7).len(), 7);
    }
}
