//! Pseudo-labels of the teacher: argmax class per pixel, and one weight for the batch, the share of confident pixels.

use crate::error::{Error, Result};
use crate::group::{mean, Group};
use crate::host::math::exp_negative;
use crate::host::prefetch::prefetch;
use crate::host::slice::{output, view};
use crate::host::{self, pool};
use crate::shape::{check_device, check_float, check_rank, check_size};
use multiversion::multiversion;
use rayon::prelude::*;
use tch::{Device, Kind, Tensor};

/// Settings. `threshold`: a pixel is confident if its softmax maximum is at least this. `ignore_top`, `ignore_bottom`:
/// rows of weight 0 at the image's upper and lower edge (sky and bonnet).
#[derive(Clone, Debug)]
pub struct PseudoLabel {
    pub threshold: f64,
    pub ignore_top: i64,
    pub ignore_bottom: i64,
}

impl PseudoLabel {
    /// Logits [B,C,H,W] to label i64 [B,H,W] and weight [B,H,W] (f64 for f64 logits, else f32). `valid_mask` [B,1,H,W]
    /// or [B,H,W] multiplies the weight. The share is taken over all pixels of the batches of all processes, before rows are cut
    /// off.
    /// No gradient flows. Ties go to the lowest class. A pixel with a NaN logit is never confident.
    pub fn forward(
        &self,
        group: &dyn Group,
        logits_bchw: &Tensor,
        valid_mask: Option<&Tensor>,
    ) -> Result<(Tensor, Tensor)> {
        check_rank(logits_bchw, 4, "logits_bchw", "[B,C,H,W]")?;
        check_float(logits_bchw, "logits_bchw")?;
        if logits_bchw.numel() == 0 {
            return Err(Error::shape(format!("logits_bchw: nothing to label in shape {:?}", logits_bchw.size())));
        }
        if self.threshold.is_nan() {
            return Err(Error::value("threshold: expected a number, got NaN"));
        }
        if self.ignore_top < 0 || self.ignore_bottom < 0 {
            let (top, bottom) = (self.ignore_top, self.ignore_bottom);
            return Err(Error::value(format!("ignore_top, ignore_bottom: expected at least 0, got {top}, {bottom}")));
        }
        let logits = logits_bchw.f_detach()?;
        let on_host = host::fused(&[&logits]) && logits.f_kind()? != Kind::Double;
        let (label, share) =
            if on_host { label_host(&logits, self.threshold as f32)? } else { label_ops(&logits, self.threshold)? };
        let share = mean(group, &share)?;
        let size = label.size();
        let spread = || share.f_expand(&size, false)?.f_contiguous();
        let mut weight = if on_host { spread_host(&share, &size)? } else { spread()? };
        let height = size[1];
        let (top, bottom) = (self.ignore_top.min(height), self.ignore_bottom.min(height));
        let _ = weight.f_narrow(1, 0, top)?.f_zero_()?;
        let _ = weight.f_narrow(1, height - bottom, bottom)?.f_zero_()?;
        if let Some(mask) = valid_mask {
            weight = weight.f_mul(&self.mask_of(mask, &label)?.f_to_kind(weight.f_kind()?)?)?;
        }
        Ok((label, weight))
    }

    fn mask_of(&self, mask: &Tensor, label_bhw: &Tensor) -> Result<Tensor> {
        check_device(mask, "valid_mask", label_bhw, "logits_bchw")?;
        let mask = match mask.size()[..] {
            [_, 1, _, _] => mask.f_squeeze_dim(1)?,
            _ => mask.f_detach()?,
        };
        check_size(&mask, &label_bhw.size(), "valid_mask")?;
        Ok(mask)
    }
}

/// Label, and the share as a 0-dim tensor that never visits the host.
fn label_ops(logits: &Tensor, threshold: f64) -> Result<(Tensor, Tensor)> {
    let kind = logits.f_kind()?;
    let wide = if kind == Kind::Double { Kind::Double } else { Kind::Float };
    let (confidence, label) = logits.f_softmax(1, wide)?.f_max_dim(1, false)?;
    let count = confidence.f_ge(threshold)?.f_sum(Kind::Int64)?;
    // Divided in f64 as the released code does on the host; MPS has no f64.
    let divide = if logits.device() == Device::Mps { Kind::Float } else { Kind::Double };
    let share = count.f_to_kind(divide)?.f_div_scalar(label.numel() as f64)?.f_to_kind(wide)?;
    Ok((label, share))
}

/// Pixels per parallel task.
const BLOCK: usize = 4096;
/// Pixels whose maximum, class and sum stay in registers. Their logits are copied side by side for the second pass: where
/// they come from, the planes of the classes often lie a power of two apart, and would push each other out of the cache.
const LANES: usize = 64;

/// The same in one sweep over the logits: no probabilities are stored.
fn label_host(logits: &Tensor, threshold: f32) -> Result<(Tensor, Tensor)> {
    let size = logits.size();
    let (classes, pixels) = (size[1] as usize, (size[2] * size[3]) as usize);
    let values = view::<f32>(logits)?;
    let mut label = output::<i64>(&[size[0], size[2], size[3]])?;
    let label_all: &mut [i64] = &mut label;
    let count: u64 = pool::run(|| {
        let images = label_all.par_chunks_mut(pixels).zip(values.par_chunks(classes * pixels));
        images
            .map(|(label, logits)| -> u64 {
                let blocks = label.par_chunks_mut(BLOCK).enumerate();
                let scratch = || vec![[0f32; LANES]; classes];
                let count = |held: &mut Vec<_>, (i, block): (usize, &mut [i64])| {
                    label_block(logits, pixels, i * BLOCK, threshold, held, block)
                };
                blocks.map_init(scratch, count).sum()
            })
            .sum()
    });
    let share = (count as f64 / label.len() as f64) as f32;
    Ok((label.into_tensor(), Tensor::f_from_slice(&[share])?.f_squeeze()?))
}

/// A tensor of one value. Not by libtorch, whose threads go on spinning where the next kernel wants to run.
fn spread_host(value: &Tensor, size: &[i64]) -> Result<Tensor> {
    let value = view::<f32>(value)?[0];
    let mut weight = output::<f32>(size)?;
    let all: &mut [f32] = &mut weight;
    pool::run(|| all.par_chunks_mut(1 << 16).for_each(|part| part.fill(value)));
    Ok(weight.into_tensor())
}

/// Labels of the pixels from `first` on in `logits` [C,pixels]; returns how many are confident. `held`: scratch space,
/// one row per class.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn label_block(
    logits: &[f32],
    pixels: usize,
    first: usize,
    threshold: f32,
    held: &mut [[f32; LANES]],
    label: &mut [i64],
) -> u64 {
    let (mut count, mut rest) = (0u32, [0f32; LANES]);
    for (i, label) in label.chunks_mut(LANES).enumerate() {
        let (start, n) = (first + i * LANES, label.len());
        let mut best = [f32::NEG_INFINITY; LANES];
        let mut class = [0i32; LANES];
        for (c, held) in held.iter_mut().enumerate() {
            let plane = &logits[c * pixels + start..(c + 1) * pixels];
            // Few bytes are taken from each of many planes: too few for the machine to foresee the next ones.
            prefetch(plane, 2 * LANES, LANES);
            let whole = match plane.first_chunk::<LANES>() {
                Some(whole) if n == LANES => whole,
                _ => {
                    rest[..n].copy_from_slice(&plane[..n]);
                    &rest
                }
            };
            if c == 0 {
                best = *whole;
            }
            for j in 0..LANES {
                held[j] = whole[j]; // here, because a copy of the whole would be a call
                let better = whole[j] > best[j];
                best[j] = if better { whole[j] } else { best[j] };
                class[j] = if better { c as i32 } else { class[j] };
            }
        }
        let mut sum = [0f32; LANES];
        for held in held.iter() {
            for j in 0..LANES {
                sum[j] += exp_negative(held[j] - best[j]);
            }
        }
        for ((label, &class), &sum) in label.iter_mut().zip(&class).zip(&sum) {
            *label = i64::from(class);
            // The softmax maximum is exp(0) / sum.
            count += u32::from(1.0 / sum >= threshold);
        }
    }
    count.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fused_and_libtorch_agree() {
        let logits = crate::rng::Rng::new(1).normals(&[2, 19, 37, 41]) * 4.0;
        let (label, share) = label_host(&logits, 0.9).unwrap();
        let (label2, share2) = label_ops(&logits, 0.9).unwrap();
        assert!(label.equal(&label2));
        assert_eq!(share.double_value(&[]), share2.double_value(&[]));
    }
}
