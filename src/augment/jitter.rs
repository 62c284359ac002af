//! Colour jitter with the arithmetic of kornia 0.5.8: brightness adds, contrast multiplies (both clamp to [0,1]),
//! saturation and hue work in HSV. HSV is never formed: at a fixed hue a colour channel is v - (v - c) k, with one k for
//! all three, and a hue shift only moves the hue along the hexagon of pure colours.

use crate::error::{Error, Result};
use crate::host;
use crate::host::pool;
use crate::host::slice::{output, view};
use crate::shape::{check_float, check_rank};
use multiversion::multiversion;
use rayon::prelude::*;
use tch::{Kind, Tensor};

/// Factors of one image. `hue` is in turns. `order` lists the steps: 0 brightness, 1 contrast, 2 saturation, 3 hue.
#[derive(Clone, Debug, PartialEq)]
pub struct JitterDraw {
    pub brightness: f64,
    pub contrast: f64,
    pub saturation: f64,
    pub hue: f64,
    pub order: [usize; 4],
}

impl JitterDraw {
    pub(super) fn check(&self, channels: i64) -> Result<()> {
        if channels != 3 {
            return Err(Error::shape(format!("colour jitter: expected 3 channels (RGB), got {channels}")));
        }
        let factors = [self.brightness, self.contrast, self.saturation, self.hue];
        let mut sorted = self.order;
        sorted.sort_unstable();
        if factors.iter().any(|f| !f.is_finite()) || sorted != [0, 1, 2, 3] {
            let order = self.order;
            return Err(Error::value(format!(
                "colour jitter: expected finite factors and an order of 0, 1, 2, 3, got {factors:?} and {order:?}"
            )));
        }
        Ok(())
    }

    /// Hue shift in sixths of a turn, in 0..6.
    fn sixths(&self) -> f64 {
        (self.hue.rem_euclid(1.0) * 6.0).rem_euclid(6.0)
    }
}

/// Keeps saturation = (max - min) / (max + EPSILON) finite for black.
const EPSILON: f64 = 1e-6;

/// Colour jitter of images [B,3,H,W] in [0,1], RGB, one draw per image; new tensor, same dtype.
pub fn color_jitter(image_bchw: &Tensor, draws: &[JitterDraw]) -> Result<Tensor> {
    check_rank(image_bchw, 4, "image_bchw", "[B,3,H,W]")?;
    check_float(image_bchw, "image_bchw")?;
    let (size, kind) = (image_bchw.size(), image_bchw.f_kind()?);
    if draws.len() as i64 != size[0] {
        return Err(Error::shape(format!("draws: expected {}, one per image, got {}", size[0], draws.len())));
    }
    draws.iter().try_for_each(|d| d.check(size[1]))?;
    if image_bchw.numel() == 0 {
        return Ok(image_bchw.f_mul_scalar(1.0)?);
    }
    if host::fused_without_grad(&[image_bchw]) && kind != Kind::Double {
        let input = view::<f32>(image_bchw)?;
        let mut result = output::<f32>(&size)?;
        let per_image = input.len() / draws.len();
        let images = input.chunks_exact(per_image).zip(result.chunks_exact_mut(per_image));
        for (draw, (image, out)) in draws.iter().zip(images) {
            jitter_host(image, out, draw, &Scale::IDENTITY);
        }
        return Ok(result.into_tensor().f_to_kind(kind)?);
    }
    let wide = if kind == Kind::Double { kind } else { Kind::Float };
    let images: Vec<Tensor> = draws
        .iter()
        .enumerate()
        .map(|(i, draw)| apply_ops(&image_bchw.f_narrow(0, i as i64, 1)?.f_to_kind(wide)?, draw))
        .collect::<Result<_>>()?;
    Ok(Tensor::f_cat(&images, 0)?.f_to_kind(kind)?)
}

/// One image [1,3,H,W] in [0,1], in libtorch operations.
pub(super) fn apply_ops(image: &Tensor, draw: &JitterDraw) -> Result<Tensor> {
    let mut x = image.f_alias()?;
    for step in draw.order {
        x = match step {
            0 => x.f_add_scalar(draw.brightness - 1.0)?.f_clamp(0.0, 1.0)?,
            1 => x.f_mul_scalar(draw.contrast)?.f_clamp(0.0, 1.0)?,
            2 => saturate_ops(&x, draw.saturation)?,
            _ => rotate_ops(&x, draw.sixths())?,
        };
    }
    Ok(x)
}

fn saturate_ops(x: &Tensor, factor: f64) -> Result<Tensor> {
    let (value, delta) = value_and_delta(x)?;
    let saturation = delta.f_div(&value.f_add_scalar(EPSILON)?)?.f_mul_scalar(factor)?.f_clamp(0.0, 1.0)?;
    let ratio = value.f_mul(&saturation)?.f_div(&one_for_zero(&delta)?)?;
    Ok(value.f_sub(&value.f_sub(x)?.f_mul(&ratio)?)?)
}

fn value_and_delta(x: &Tensor) -> Result<(Tensor, Tensor)> {
    let value = x.f_amax([1], true)?;
    let delta = value.f_sub(&x.f_amin([1], true)?)?;
    Ok((value, delta))
}

fn one_for_zero(x: &Tensor) -> Result<Tensor> {
    Ok(x.f_masked_fill(&x.f_eq(0.0)?, 1.0)?)
}

fn rotate_ops(x: &Tensor, sixths: f64) -> Result<Tensor> {
    let (value, delta) = value_and_delta(x)?;
    let divisor = one_for_zero(&delta)?;
    let channel = |i: i64| x.f_narrow(1, i, 1);
    let gap = |i: i64| -> Result<Tensor> { Ok(value.f_sub(&channel(i)?)?) };
    let (r, g, b) = (gap(0)?, gap(1)?, gap(2)?);
    let from_red = b.f_sub(&g)?;
    let from_green = divisor.f_mul_scalar(2.0)?.f_add(&r)?.f_sub(&b)?;
    let from_blue = divisor.f_mul_scalar(4.0)?.f_add(&g)?.f_sub(&r)?;
    let hue = from_red.f_where_self(&r.f_eq(0.0)?, &from_green.f_where_self(&g.f_eq(0.0)?, &from_blue)?)?;
    let hue = hue.f_div(&divisor)?.f_add_scalar(sixths)?.f_remainder(6.0)?;
    let depth = value.f_mul(&delta.f_div(&value.f_add_scalar(EPSILON)?)?)?;
    let channels: Vec<Tensor> = [5.0, 3.0, 1.0]
        .iter()
        .map(|&n| -> Result<Tensor> {
            let k = hue.f_add_scalar(n)?.f_remainder(6.0)?;
            let k = k.f_minimum(&k.f_neg()?.f_add_scalar(4.0)?)?.f_clamp(0.0, 1.0)?;
            Ok(value.f_sub(&depth.f_mul(&k)?)?)
        })
        .collect::<Result<_>>()?;
    Ok(Tensor::f_cat(&channels, 1)?)
}

/// Change of scale on the way in (x a + b) and back ((x - b) / a), per channel.
pub(super) struct Scale {
    factor: [f32; 3],
    offset: [f32; 3],
}

impl Scale {
    const IDENTITY: Self = Self { factor: [1.0; 3], offset: [0.0; 3] };

    /// From normalised values to [0,1]. Channels beyond the third, or missing, do not meet the jitter.
    pub(super) fn new(mean: &[f64], std: &[f64]) -> Self {
        let of = |values: &[f64], i: usize, other: f64| (values.get(i).copied().unwrap_or(other) / 255.0) as f32;
        Self { factor: std::array::from_fn(|i| of(std, i, 255.0)), offset: std::array::from_fn(|i| of(mean, i, 0.0)) }
    }
}

/// Pixels that pass through all steps while they are in the first-level cache.
const BLOCK: usize = 1024;

/// One image of three planes into `out`.
pub(super) fn jitter_host(image: &[f32], out: &mut [f32], draw: &JitterDraw, scale: &Scale) {
    let pixels = image.len() / 3;
    let plane = |i: usize| image[i * pixels..(i + 1) * pixels].par_chunks(BLOCK);
    let (out0, rest) = out.split_at_mut(pixels);
    let (out1, out2) = rest.split_at_mut(pixels);
    let outs = out0.par_chunks_mut(BLOCK).zip(out1.par_chunks_mut(BLOCK)).zip(out2.par_chunks_mut(BLOCK));
    pool::run(|| {
        outs.zip(plane(0).zip(plane(1)).zip(plane(2))).for_each(|(((o0, o1), o2), ((r, g), b))| {
            jitter_block([r, g, b], [o0, o1, o2], draw, scale);
        });
    });
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn jitter_block(input: [&[f32]; 3], out: [&mut [f32]; 3], draw: &JitterDraw, scale: &Scale) {
    let n = input[0].len();
    let mut x = [[0f32; BLOCK]; 3];
    for c in 0..3 {
        let (a, b) = (scale.factor[c], scale.offset[c]);
        for (x, &v) in x[c][..n].iter_mut().zip(input[c]) {
            *x = v * a + b;
        }
    }
    let [r, g, b] = &mut x;
    for step in draw.order {
        match step {
            0 => {
                let shift = (draw.brightness - 1.0) as f32;
                for plane in [&mut *r, &mut *g, &mut *b] {
                    for x in plane {
                        *x = (*x + shift).clamp(0.0, 1.0);
                    }
                }
            }
            1 => {
                let factor = draw.contrast as f32;
                for plane in [&mut *r, &mut *g, &mut *b] {
                    for x in plane {
                        *x = (*x * factor).clamp(0.0, 1.0);
                    }
                }
            }
            2 => {
                let factor = draw.saturation as f32;
                for ((r, g), b) in r.iter_mut().zip(g.iter_mut()).zip(b.iter_mut()) {
                    (*r, *g, *b) = saturate(*r, *g, *b, factor);
                }
            }
            _ => {
                let sixths = draw.sixths() as f32;
                for ((r, g), b) in r.iter_mut().zip(g.iter_mut()).zip(b.iter_mut()) {
                    (*r, *g, *b) = rotate(*r, *g, *b, sixths);
                }
            }
        }
    }
    for (c, out) in out.into_iter().enumerate() {
        let (a, b) = (scale.factor[c], scale.offset[c]);
        for (o, &x) in out.iter_mut().zip(&x[c]) {
            *o = (x - b) / a;
        }
    }
}

#[inline(always)]
fn largest(a: f32, b: f32) -> f32 {
    if a > b {
        a
    } else {
        b
    }
}

#[inline(always)]
fn smallest(a: f32, b: f32) -> f32 {
    if a < b {
        a
    } else {
        b
    }
}

#[inline(always)]
fn saturate(r: f32, g: f32, b: f32, factor: f32) -> (f32, f32, f32) {
    let value = largest(largest(r, g), b);
    let delta = value - smallest(smallest(r, g), b);
    let saturation = (delta / (value + EPSILON as f32) * factor).clamp(0.0, 1.0);
    let ratio = value * saturation / if delta == 0.0 { 1.0 } else { delta };
    (value - (value - r) * ratio, value - (value - g) * ratio, value - (value - b) * ratio)
}

#[inline(always)]
fn rotate(r: f32, g: f32, b: f32, sixths: f32) -> (f32, f32, f32) {
    let value = largest(largest(r, g), b);
    let delta = value - smallest(smallest(r, g), b);
    let divisor = if delta == 0.0 { 1.0 } else { delta };
    let (gap_r, gap_g, gap_b) = (value - r, value - g, value - b);
    let from_green = 2.0 * divisor + gap_r - gap_b;
    let from_blue = 4.0 * divisor + gap_g - gap_r;
    let hue = if g == value { from_green } else { from_blue };
    let hue = if r == value { gap_b - gap_g } else { hue };
    // -1..5, then 0..6, by comparisons: a remainder would call a function for every pixel.
    let hue = hue / divisor;
    let hue = if hue < 0.0 { hue + 6.0 } else { hue } + sixths;
    let hue = if hue >= 6.0 { hue - 6.0 } else { hue };
    let depth = value * (delta / (value + EPSILON as f32));
    let channel = |n: f32| {
        let k = hue + n;
        let k = if k >= 6.0 { k - 6.0 } else { k };
        value - depth * smallest(k, 4.0 - k).clamp(0.0, 1.0)
    };
    (channel(5.0), channel(3.0), channel(1.0))
}
