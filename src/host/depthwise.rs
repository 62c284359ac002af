//! Depthwise 3x3 convolution with dilation on host memory, value and gradients. libtorch's backward passes of it take two to
//! eight times as long as reading and writing the maps does.
//!
//! Maps lie pixel by pixel, [B,H,W,C]: the channels of a pixel are neighbours and make whole vectors at any dilation.
//! Weights are [9,C], row by row of the 3x3 window. Sums are taken in f32, in a fixed order.

use super::pool;
use super::slice::{output, view, Element};
use crate::error::{Error, Result};
use crate::shape::{check_rank, check_size};
use half::bf16;
use multiversion::multiversion;
use rayon::prelude::*;
use tch::{Kind, Tensor};

/// Channels whose sums stay in registers.
const LANES: usize = 64;
/// Rows of the gradient map per task of the weight's gradient.
const ROWS: usize = 8;

/// A stored number that is computed in f32.
trait Value: Element {
    fn load(self) -> f32;
    fn store(x: f32) -> Self;
}

impl Value for f32 {
    #[inline(always)]
    fn load(self) -> f32 {
        self
    }
    #[inline(always)]
    fn store(x: f32) -> Self {
        x
    }
}

impl Value for bf16 {
    #[inline(always)]
    fn load(self) -> f32 {
        self.to_f32()
    }
    #[inline(always)]
    fn store(x: f32) -> Self {
        bf16::from_f32(x)
    }
}

#[derive(Clone, Copy)]
struct Shape {
    height: usize,
    width: usize,
    channels: usize,
    dilation: usize,
}

impl Shape {
    fn of(map_bdhw: &Tensor, weight_d133: &Tensor, dilation: i64, name: &str) -> Result<Self> {
        check_rank(map_bdhw, 4, name, "[B,D,H,W]")?;
        let size = map_bdhw.size();
        check_size(weight_d133, &[size[1], 1, 3, 3], "weight_d133")?;
        if dilation < 1 {
            return Err(Error::value(format!("dilation: expected at least 1, got {dilation}")));
        }
        let [channels, height, width] = [size[1] as usize, size[2] as usize, size[3] as usize];
        Ok(Self { height, width, channels, dilation: dilation as usize })
    }

    /// Row or column that tap `k` (0, 1, 2) sees from position `i`, if it lies inside.
    #[inline(always)]
    fn seen(self, i: usize, k: usize, length: usize) -> Option<usize> {
        (i + k * self.dilation).checked_sub(self.dilation).filter(|&j| j < length)
    }

    /// Columns from which tap `k` sees a column of the map.
    #[inline(always)]
    fn columns(self, k: usize) -> std::ops::Range<usize> {
        let first = if k == 0 { self.dilation } else { 0 };
        let last = if k == 2 { self.width.saturating_sub(self.dilation) } else { self.width };
        first.min(last)..last
    }
}

/// Weight [D,1,3,3] as [9,D] numbers.
fn taps(weight_d133: &Tensor) -> Result<Tensor> {
    Ok(weight_d133.f_detach()?.f_flatten(1, 3)?.f_tr()?.f_to_kind(Kind::Float)?.f_contiguous()?)
}

fn pixelwise(map_bdhw: &Tensor) -> Result<Tensor> {
    Ok(map_bdhw.f_detach()?.f_permute([0, 2, 3, 1])?.f_contiguous()?)
}

fn unsupported(kind: Kind) -> Error {
    Error::dtype(format!("depthwise: expected float32 or bfloat16, got {kind:?}"))
}

/// Convolution of [B,D,H,W] with [D,1,3,3], zeros around, the map keeps its size; in channels-last order and of the map's
/// dtype. `mirrored` turns the window by half a circle, which gives the gradient of the input from that of the output.
pub fn depthwise(map_bdhw: &Tensor, weight_d133: &Tensor, dilation: i64, mirrored: bool) -> Result<Tensor> {
    let shape = Shape::of(map_bdhw, weight_d133, dilation, "map_bdhw")?;
    let weight = if mirrored { weight_d133.f_flip([2, 3])? } else { weight_d133.f_alias()? };
    let weight = view::<f32>(&taps(&weight)?)?;
    match map_bdhw.f_kind()? {
        Kind::Float => convolve::<f32>(map_bdhw, &weight, shape, row_f32),
        Kind::BFloat16 => convolve::<bf16>(map_bdhw, &weight, shape, row_bf16),
        other => Err(unsupported(other)),
    }
}

type Row<V> = fn(&[V], &[f32], Shape, usize, &mut [V]);

fn convolve<V: Value>(map_bdhw: &Tensor, weight: &[f32], shape: Shape, row: Row<V>) -> Result<Tensor> {
    let map = pixelwise(map_bdhw)?;
    let input = view::<V>(&map)?;
    let mut result = output::<V>(&map.size())?;
    let out: &mut [V] = &mut result;
    let length = shape.width * shape.channels;
    if !out.is_empty() {
        pool::run(|| {
            out.par_chunks_mut(length).enumerate().for_each(|(i, out)| {
                let (image, y) = (i / shape.height, i % shape.height);
                let image = &input[image * shape.height * length..(image + 1) * shape.height * length];
                row(image, weight, shape, y, out);
            });
        });
    }
    Ok(result.into_tensor().f_permute([0, 3, 1, 2])?)
}

/// Gradient [D,1,3,3] (f32) of the weight, from the input and the gradient of the output, both [B,D,H,W] of one dtype.
pub fn depthwise_weight_gradient(map_bdhw: &Tensor, grad_bdhw: &Tensor, dilation: i64) -> Result<Tensor> {
    let size = map_bdhw.size();
    check_rank(map_bdhw, 4, "map_bdhw", "[B,D,H,W]")?;
    check_size(grad_bdhw, &size, "grad_bdhw")?;
    let weight = Tensor::f_zeros([size[1], 1, 3, 3], (Kind::Float, tch::Device::Cpu))?;
    let shape = Shape::of(map_bdhw, &weight, dilation, "map_bdhw")?;
    let grad_bdhw = grad_bdhw.f_to_kind(map_bdhw.f_kind()?)?;
    let taps = match map_bdhw.f_kind()? {
        Kind::Float => correlate::<f32>(map_bdhw, &grad_bdhw, shape, rows_f32)?,
        Kind::BFloat16 => correlate::<bf16>(map_bdhw, &grad_bdhw, shape, rows_bf16)?,
        other => return Err(unsupported(other)),
    };
    Ok(Tensor::f_from_slice(&taps)?.f_view([9, size[1]])?.f_tr()?.f_reshape([size[1], 1, 3, 3])?)
}

type Rows<V> = fn(&[V], &[V], Shape, usize, &mut [f32]);

fn correlate<V: Value>(map: &Tensor, grad: &Tensor, shape: Shape, rows: Rows<V>) -> Result<Vec<f32>> {
    let (map, grad) = (pixelwise(map)?, pixelwise(grad)?);
    let (input, grad) = (view::<V>(&map)?, view::<V>(&grad)?);
    let (length, plane) = (shape.width * shape.channels, shape.height * shape.width * shape.channels);
    let mut total = vec![0f32; 9 * shape.channels];
    if plane == 0 {
        return Ok(total);
    }
    let parts: Vec<Vec<f32>> = pool::run(|| {
        let tasks = grad.par_chunks(plane).zip(input.par_chunks(plane)).flat_map(|(grad, input)| {
            grad.par_chunks(ROWS * length).enumerate().map(move |(i, grad)| {
                let mut sum = vec![0f32; 9 * shape.channels];
                rows(input, grad, shape, i * ROWS, &mut sum);
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

/// One row of the output: the sum over the window, channel by channel.
#[inline(always)]
fn row<V: Value>(image: &[V], weight: &[f32], shape: Shape, y: usize, out: &mut [V]) {
    let channels = shape.channels;
    for (x, out) in out.chunks_exact_mut(channels).enumerate() {
        for (block, out) in out.chunks_mut(LANES).enumerate() {
            let (first, n) = (block * LANES, out.len());
            let mut sum = [0f32; LANES];
            for ky in 0..3 {
                let Some(row) = shape.seen(y, ky, shape.height) else { continue };
                for kx in 0..3 {
                    let Some(column) = shape.seen(x, kx, shape.width) else { continue };
                    let start = (row * shape.width + column) * channels + first;
                    let (input, weight) = (&image[start..start + n], &weight[(3 * ky + kx) * channels + first..][..n]);
                    // The full block has a length known to the compiler: its sums stay in registers.
                    match (input.first_chunk::<LANES>(), weight.first_chunk::<LANES>()) {
                        (Some(input), Some(weight)) => (0..LANES).for_each(|c| sum[c] += input[c].load() * weight[c]),
                        _ => (0..n).for_each(|c| sum[c] += input[c].load() * weight[c]),
                    }
                }
            }
            out.iter_mut().zip(&sum).for_each(|(out, &sum)| *out = V::store(sum));
        }
    }
}

/// Adds to `sum` [9,C] what the rows of `grad` from `first` on give the weight.
#[inline(always)]
fn rows<V: Value>(image: &[V], grad: &[V], shape: Shape, first: usize, sum: &mut [f32]) {
    let channels = shape.channels;
    let length = shape.width * channels;
    for (i, grad) in grad.chunks_exact(length).enumerate() {
        for (tap, sum) in sum.chunks_exact_mut(channels).enumerate() {
            let (ky, kx) = (tap / 3, tap % 3);
            let Some(row) = shape.seen(first + i, ky, shape.height) else { continue };
            let image = &image[row * length..(row + 1) * length];
            for (block, sum) in sum.chunks_mut(LANES).enumerate() {
                let (start, n) = (block * LANES, sum.len());
                let mut held = [0f32; LANES];
                held[..n].copy_from_slice(sum);
                for x in shape.columns(kx) {
                    let seen = x + kx * shape.dilation - shape.dilation;
                    let (input, grad) = (&image[seen * channels + start..][..n], &grad[x * channels + start..][..n]);
                    match (input.first_chunk::<LANES>(), grad.first_chunk::<LANES>()) {
                        (Some(a), Some(b)) => (0..LANES).for_each(|c| held[c] += a[c].load() * b[c].load()),
                        _ => (0..n).for_each(|c| held[c] += input[c].load() * grad[c].load()),
                    }
                }
                sum.copy_from_slice(&held[..n]);
            }
        }
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn row_f32(image: &[f32], weight: &[f32], shape: Shape, y: usize, out: &mut [f32]) {
    row(image, weight, shape, y, out);
}
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn row_bf16(image: &[bf16], weight: &[f32], shape: Shape, y: usize, out: &mut [bf16]) {
    row(image, weight, shape, y, out);
}
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn rows_f32(image: &[f32], grad: &[f32], shape: Shape, first: usize, sum: &mut [f32]) {
    rows(image, grad, shape, first, sum);
}
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn rows_bf16(image: &[bf16], grad: &[bf16], shape: Shape, first: usize, sum: &mut [f32]) {
    rows(image, grad, shape, first, sum);
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    #[test]
    fn value_and_gradients_are_libtorchs() {
        for (channels, height, width, dilation) in [(64, 9, 7, 1), (70, 13, 10, 3), (5, 4, 4, 6)] {
            let map = Tensor::randn([2, channels, height, width], (Kind::Float, Device::Cpu)).set_requires_grad(true);
            let weight = Tensor::randn([channels, 1, 3, 3], (Kind::Float, Device::Cpu)).set_requires_grad(true);
            let window = [dilation, dilation];
            let expected = map.conv2d(&weight, None::<Tensor>, [1, 1], window, window, channels);
            let found = depthwise(&map, &weight, dilation, false).unwrap();
            assert!(found.allclose(&expected, 1e-5, 1e-5, false));
            let grad = Tensor::randn_like(&expected);
            let expected =
                Tensor::run_backward(&[(&expected * &grad).sum(Kind::Float)], &[&map, &weight], false, false);
            assert!(depthwise(&grad, &weight, dilation, true).unwrap().allclose(&expected[0], 1e-5, 1e-5, false));
            let found = depthwise_weight_gradient(&map, &grad, dilation).unwrap();
            assert!(found.allclose(&expected[1], 1e-4, 1e-4, false));
        }
    }

    #[test]
    fn bfloat16_is_rounded_to_the_nearest() {
        let values = Tensor::randn([1000], (Kind::Float, Device::Cpu));
        let expected: Vec<f32> = Vec::try_from(values.to_kind(Kind::BFloat16).to_kind(Kind::Float)).unwrap();
        let values: Vec<f32> = Vec::try_from(values).unwrap();
        assert!(values.iter().zip(expected).all(|(&x, y)| <bf16 as Value>::store(x).load() == y));
        assert!(<bf16 as Value>::store(f32::NAN).load().is_nan());
    }
}
