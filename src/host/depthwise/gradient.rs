//! Gradient of the weight of a depthwise convolution with any square window.

use super::{block, for_blocks, pixelwise, unsupported, Value};
use crate::error::{Error, Result};
use crate::host::pool;
use crate::host::slice::view;
use crate::shape::{check_rank, check_size};
use half::bf16;
use multiversion::multiversion;
use rayon::prelude::*;
use tch::{Kind, Tensor};

/// Rows of the gradient map per task of the weight's gradient.
const ROWS: usize = 8;

/// Square window of a depthwise convolution, alike in rows and columns.
#[derive(Clone, Copy)]
pub struct Window {
    pub size: usize,
    pub stride: usize,
    /// Zeros around the map.
    pub padding: usize,
    pub dilation: usize,
}

impl Window {
    /// Length of the output along an axis of the input.
    fn places(self, length: usize) -> Option<usize> {
        let reach = self.dilation.checked_mul(self.size.checked_sub(1)?)? + 1;
        let reach = (self.dilation > 0).then_some(reach)?;
        Some((length + 2 * self.padding).checked_sub(reach)?.checked_div(self.stride)? + 1)
    }

    /// Row or column of the input that tap `k` sees from place `i`, if it lies inside.
    #[inline(always)]
    fn seen(self, i: usize, k: usize, length: usize) -> Option<usize> {
        (i * self.stride + k * self.dilation).checked_sub(self.padding).filter(|&j| j < length)
    }

    /// Of `places`, those from which tap `k` sees a column of the input.
    #[inline(always)]
    fn columns(self, k: usize, places: usize, length: usize) -> std::ops::Range<usize> {
        let before = self.padding.saturating_sub(k * self.dilation).div_ceil(self.stride);
        let inside = (length + self.padding).saturating_sub(k * self.dilation).div_ceil(self.stride);
        before.min(places)..inside.min(places)
    }
}

/// Sizes of input and output of the weight's gradient.
#[derive(Clone, Copy)]
struct Correlation {
    channels: usize,
    /// Rows and columns of the input, and of the output.
    input: (usize, usize),
    output: (usize, usize),
    window: Window,
}

/// Gradient [D,1,k,k] (f32) of the weight, from the input [B,D,H,W] and the gradient of the output, both of one dtype.
pub fn depthwise_weight_gradient(map_bdhw: &Tensor, grad_bdhw: &Tensor, window: Window) -> Result<Tensor> {
    check_rank(map_bdhw, 4, "map_bdhw", "[B,D,H,W]")?;
    let size = map_bdhw.size();
    let input = (size[2] as usize, size[3] as usize);
    let (Some(rows), Some(columns)) = (window.places(input.0), window.places(input.1)) else {
        return Err(Error::value(format!(
            "window: expected size, stride and dilation of at least 1 and a window no larger than the padded map, got \
             size {}, stride {}, dilation {}, padding {} for a map of {}x{}",
            window.size, window.stride, window.dilation, window.padding, input.0, input.1
        )));
    };
    check_size(grad_bdhw, &[size[0], size[1], rows as i64, columns as i64], "grad_bdhw")?;
    let sizes = Correlation { channels: size[1] as usize, input, output: (rows, columns), window };
    let grad_bdhw = grad_bdhw.f_to_kind(map_bdhw.f_kind()?)?;
    let taps = match map_bdhw.f_kind()? {
        Kind::Float => correlate::<f32>(map_bdhw, &grad_bdhw, sizes, rows_f32)?,
        Kind::BFloat16 => correlate::<bf16>(map_bdhw, &grad_bdhw, sizes, rows_bf16)?,
        other => return Err(unsupported(other)),
    };
    let side = window.size as i64;
    Ok(Tensor::f_from_slice(&taps)?.f_view([side * side, size[1]])?.f_tr()?.f_reshape([size[1], 1, side, side])?)
}

type Rows<V> = fn(&[V], &[V], Correlation, usize, &mut [f32]);

fn correlate<V: Value>(map: &Tensor, grad: &Tensor, sizes: Correlation, rows: Rows<V>) -> Result<Vec<f32>> {
    let (map, grad) = (pixelwise(map)?, pixelwise(grad)?);
    let (input, grad) = (view::<V>(&map)?, view::<V>(&grad)?);
    let (of_input, of_output) = (sizes.input.0 * sizes.input.1, sizes.output.0 * sizes.output.1);
    let taps = sizes.window.size.pow(2) * sizes.channels;
    let mut total = vec![0f32; taps];
    if grad.is_empty() || input.is_empty() {
        return Ok(total);
    }
    let parts: Vec<Vec<f32>> = pool::run(|| {
        let images = grad.par_chunks(of_output * sizes.channels).zip(input.par_chunks(of_input * sizes.channels));
        let tasks = images.flat_map(|(grad, input)| {
            grad.par_chunks(ROWS * sizes.output.1 * sizes.channels).enumerate().map(move |(i, grad)| {
                let mut sum = vec![0f32; taps];
                rows(input, grad, sizes, i * ROWS, &mut sum);
                sum
            })
        });
        tasks.collect()
    });
    for part in &parts {
        total.iter_mut().zip(part).for_each(|(total, part)| *total += part);
    }
    Ok(total)
}

/// Adds to `sum` [window^2,C] what the rows of `grad` from `first` on give the weight.
#[inline(always)]
fn rows<V: Value>(image: &[V], grad: &[V], sizes: Correlation, first: usize, sum: &mut [f32]) {
    let Correlation { channels, input: (height, width), output: (_, places), window } = sizes;
    for (i, grad) in grad.chunks_exact(places * channels).enumerate() {
        for (tap, sum) in sum.chunks_exact_mut(channels).enumerate() {
            let (ky, kx) = (tap / window.size, tap % window.size);
            let Some(row) = window.seen(first + i, ky, height) else { continue };
            let image = &image[row * width * channels..(row + 1) * width * channels];
            let columns = window.columns(kx, places, width);
            for_blocks!(channels, |N, start| {
                let sum: &mut [f32; N] = sum[start..].first_chunk_mut().expect("a sum for each channel");
                let mut held = *sum;
                for x in columns.clone() {
                    let seen = x * window.stride + kx * window.dilation - window.padding;
                    let input = block::<V, N>(image, seen * channels + start);
                    let grad = block::<V, N>(grad, x * channels + start);
                    (0..N).for_each(|c| held[c] += input[c].load() * grad[c].load());
                }
                *sum = held;
            });
        }
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn rows_f32(image: &[f32], grad: &[f32], sizes: Correlation, first: usize, sum: &mut [f32]) {
    rows(image, grad, sizes, first, sum);
}
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn rows_bf16(image: &[bf16], grad: &[bf16], sizes: Correlation, first: usize, sum: &mut [f32]) {
    rows(image, grad, sizes, first, sum);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;
    use tch::Device;

    #[test]
    fn gradient_of_any_window_is_libtorchs() {
        let mut rng = Rng::new(1);
        for (size, stride, padding, dilation) in [(5, 1, 2, 1), (5, 2, 0, 1), (1, 3, 0, 1), (4, 2, 3, 2), (7, 1, 9, 1)]
        {
            for (channels, height, width) in [(70, 19, 22), (3, 7, 13)] {
                let map = rng.normals(&[2, channels, height, width]);
                let weight = rng.normals(&[channels, 1, size, size]).set_requires_grad(true);
                let twice = |n: i64| [n, n];
                let out = map.conv2d(&weight, None::<Tensor>, twice(stride), twice(padding), twice(dilation), channels);
                let grad = rng.normals(&out.size());
                let expected = Tensor::run_backward(&[(&out * &grad).sum(Kind::Float)], &[&weight], false, false);
                let [size, stride, padding, dilation] = [size, stride, padding, dilation].map(|n| n as usize);
                let window = Window { size, stride, padding, dilation };
                let found = depthwise_weight_gradient(&map, &grad, window).unwrap();
                assert!(found.allclose(&expected[0], 1e-4, 1e-4, false), "{size} {stride} {padding} {dilation}");
            }
        }
        let map = Tensor::zeros([1, 2, 3, 3], (Kind::Float, Device::Cpu));
        for (size, stride, dilation) in [(5, 1, 1), (0, 1, 1), (3, 0, 1), (3, 1, 0), (3, 1, 2)] {
            let window = Window { size, stride, padding: 0, dilation };
            assert!(depthwise_weight_gradient(&map, &map, window).is_err());
        }
    }
}
