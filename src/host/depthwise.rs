//! Depthwise convolution on host memory: 3x3 with dilation, value and gradients, and the weight's gradient for any square
//! window. libtorch's backward passes of the former take two to eight times as long as reading and writing the maps does,
//! and its gradient of a 5x5 weight ten to forty times as long as its forward pass.
//!
//! Maps lie pixel by pixel, [B,H,W,C]: the channels of a pixel are neighbours and make whole vectors at any dilation.
//! Weights are [window^2,C], row by row of the window. Sums are taken in f32, in a fixed order.

mod gradient;

pub use gradient::{depthwise_weight_gradient, Window};

use super::pool;
use super::slice::{output, view, Element};
use crate::error::{Error, Result};
use crate::shape::{check_rank, check_size};
use half::bf16;
use multiversion::multiversion;
use rayon::prelude::*;
use tch::{Kind, Tensor};

/// Runs an expression for blocks of 64, 16 and single channels that cover them all. The number of channels of a block is
/// known to the compiler, so that their sums stay in registers.
macro_rules! for_blocks {
    ($channels:expr, |$n:ident, $first:ident| $run:expr) => {
        let (channels, mut $first) = ($channels, 0);
        while $first < channels {
            match channels - $first {
                64.. => {
                    const $n: usize = 64;
                    $run;
                    $first += $n;
                }
                16.. => {
                    const $n: usize = 16;
                    $run;
                    $first += $n;
                }
                _ => {
                    const $n: usize = 1;
                    $run;
                    $first += $n;
                }
            }
        }
    };
}
use for_blocks;

/// `N` neighbouring values from `start` on.
#[inline(always)]
fn block<V, const N: usize>(values: &[V], start: usize) -> &[V; N] {
    values[start..].first_chunk().expect("blocks lie inside of their maps")
}

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

/// One row of the output: the sum over the window, channel by channel.
#[inline(always)]
fn row<V: Value>(image: &[V], weight: &[f32], shape: Shape, y: usize, out: &mut [V]) {
    for (x, out) in out.chunks_exact_mut(shape.channels).enumerate() {
        for_blocks!(shape.channels, |N, first| pixel::<V, N>(image, weight, shape, (y, x), first, out));
    }
}

/// `N` channels of a pixel of the output.
#[inline(always)]
fn pixel<V: Value, const N: usize>(
    image: &[V],
    weight: &[f32],
    shape: Shape,
    (y, x): (usize, usize),
    first: usize,
    out: &mut [V],
) {
    let mut sum = [0f32; N];
    for ky in 0..3 {
        let Some(row) = shape.seen(y, ky, shape.height) else { continue };
        for kx in 0..3 {
            let Some(column) = shape.seen(x, kx, shape.width) else { continue };
            let input = block::<V, N>(image, (row * shape.width + column) * shape.channels + first);
            let weight = block::<f32, N>(weight, (3 * ky + kx) * shape.channels + first);
            (0..N).for_each(|c| sum[c] += input[c].load() * weight[c]);
        }
    }
    out[first..first + N].iter_mut().zip(sum).for_each(|(out, sum)| *out = V::store(sum));
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn row_f32(image: &[f32], weight: &[f32], shape: Shape, y: usize, out: &mut [f32]) {
    row(image, weight, shape, y, out);
}
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn row_bf16(image: &[bf16], weight: &[f32], shape: Shape, y: usize, out: &mut [bf16]) {
    row(image, weight, shape, y, out);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    #[test]
    fn value_and_gradients_are_libtorchs() {
        let mut rng = Rng::new(1);
        for (channels, height, width, dilation) in [(64, 9, 7, 1), (70, 13, 10, 3), (5, 4, 4, 6)] {
            let map = rng.normals(&[2, channels, height, width]).set_requires_grad(true);
            let weight = rng.normals(&[channels, 1, 3, 3]).set_requires_grad(true);
            let window = [dilation, dilation];
            let expected = map.conv2d(&weight, None::<Tensor>, [1, 1], window, window, channels);
            let found = depthwise(&map, &weight, dilation, false).unwrap();
            assert!(found.allclose(&expected, 1e-5, 1e-5, false));
            let grad = rng.normals(&expected.size());
            let expected =
                Tensor::run_backward(&[(&expected * &grad).sum(Kind::Float)], &[&map, &weight], false, false);
            assert!(depthwise(&grad, &weight, dilation, true).unwrap().allclose(&expected[0], 1e-5, 1e-5, false));
            let window = Window { size: 3, stride: 1, padding: dilation as usize, dilation: dilation as usize };
            let found = depthwise_weight_gradient(&map, &grad, window).unwrap();
            assert!(found.allclose(&expected[1], 1e-4, 1e-4, false));
        }
    }

    #[test]
    fn bfloat16_is_rounded_to_the_nearest() {
        let values = Rng::new(1).normals(&[1000]);
        let expected: Vec<f32> = Vec::try_from(values.to_kind(Kind::BFloat16).to_kind(Kind::Float)).unwrap();
        let values: Vec<f32> = Vec::try_from(values).unwrap();
        assert!(values.iter().zip(expected).all(|(&x, y)| <bf16 as Value>::store(x).load() == y));
        assert!(<bf16 as Value>::store(f32::NAN).load().is_nan());
    }
}
