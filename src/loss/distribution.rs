//! Class-distribution contrast (SePiCo, TPAMI 2023): a pixel against the distribution of every class instead of against
//! other pixels, so that all pixels count and no pair is formed.
//!
//! Suffixes: B batch, D channels, H W size, K classes.

mod sweep;
mod tracker;

pub(crate) use tracker::decay;
pub use tracker::ClassDistribution;

use super::segmentation::Places;
use crate::error::Result;
use crate::group::{part_of_mean, Group};
use crate::host::fused;
use crate::prototypes::{check_label, check_rows, check_seen};
use crate::shape::{check_device, check_float, check_positive, check_size};
use crate::surrogate::{attach_dot, compute_kind, wants_grad};
use tch::{Kind, Tensor};

/// Settings of the loss.
#[derive(Clone, Copy, Debug)]
pub struct DistributionContrast {
    pub temperature: f64,
    pub ignore_index: i64,
}

/// Running mean and diagonal variance [K,D] of the normalised embeddings of each class, and which classes have been seen.
pub struct Moments<'a> {
    pub mean_kd: &'a Tensor,
    pub var_kd: &'a Tensor,
    /// Unseen classes are no alternatives, and their pixels do not count. None: all seen.
    pub seen_k: Option<&'a Tensor>,
}

impl DistributionContrast {
    /// Mean over labelled pixels of -log softmax_k((e.mean_k + e^2.var_k / (2 t)) / t)_y, e the embedding [B,D,H,W] scaled
    /// to length one: the expected contrast with all features of normally distributed classes, in closed form. Gradient
    /// to the embedding only. Without a labelled pixel a zero that keeps the graph.
    pub fn forward(
        &self,
        group: &dyn Group,
        embedding_bdhw: &Tensor,
        label_bhw: &Tensor,
        moments: &Moments<'_>,
    ) -> Result<Tensor> {
        let Moments { mean_kd, var_kd, seen_k } = *moments;
        check_rows(embedding_bdhw, "embedding_bdhw", mean_kd, "mean_kd")?;
        check_float(var_kd, "var_kd")?;
        check_size(var_kd, &mean_kd.size(), "var_kd (the shape of mean_kd)")?;
        check_device(var_kd, "var_kd", embedding_bdhw, "embedding_bdhw")?;
        check_seen(seen_k, mean_kd, "mean_kd")?;
        let classes = mean_kd.size()[0];
        check_label(label_bhw, embedding_bdhw, "embedding_bdhw", classes, self.ignore_index)?;
        check_positive(self.temperature, "temperature")?;
        let kind = compute_kind(embedding_bdhw)?;
        if embedding_bdhw.numel() == 0 {
            return Ok(embedding_bdhw.f_sum(kind)?);
        }
        let valid = valid_pixels(label_bhw, self.ignore_index, seen_k, classes)?;
        let count = valid.f_sum(Kind::Int64)?;
        let loss = if kind == Kind::Float && fused(&[embedding_bdhw]) {
            let with_gradient = wants_grad(embedding_bdhw)?;
            let label = label_bhw.f_to_kind(Kind::Int64)?.f_masked_fill(&valid.f_logical_not()?, -1)?;
            let count = count.f_int64_value(&[])?.max(1) as f64;
            let (sum, gradient) =
                sweep::sweep(embedding_bdhw, &label, moments, self.temperature, count, with_gradient)?;
            let value = Tensor::f_from_slice(&[(sum / count) as f32])?.f_squeeze()?;
            match gradient {
                Some(gradient) => attach_dot(value, embedding_bdhw, &gradient)?,
                None => value,
            }
        } else {
            self.ops(embedding_bdhw, label_bhw, moments, &valid, &count, kind)?
        };
        part_of_mean(group, &loss, || Ok(count))
    }

    fn ops(
        &self,
        embedding_bdhw: &Tensor,
        label_bhw: &Tensor,
        moments: &Moments<'_>,
        valid_bhw: &Tensor,
        count: &Tensor,
        kind: Kind,
    ) -> Result<Tensor> {
        let e = unit(&embedding_bdhw.f_to_kind(kind)?, kind)?.f_flatten(2, 3)?;
        let mean = moments.mean_kd.f_detach()?.f_to_kind(kind)?;
        let var = moments.var_kd.f_detach()?.f_to_kind(kind)?.f_mul_scalar(0.5 / self.temperature)?;
        let logits = mean.f_matmul(&e)?.f_add(&var.f_matmul(&e.f_square()?)?)?.f_mul_scalar(1.0 / self.temperature)?;
        let logits = match moments.seen_k {
            Some(seen_k) => logits.f_masked_fill(&seen_k.f_logical_not()?.f_reshape([1, -1, 1])?, f64::NEG_INFINITY)?,
            None => logits,
        };
        let valid = valid_bhw.f_flatten(1, 2)?;
        let place = Places::new(&label_bhw.f_flatten(1, 2)?, logits.size()[1], self.ignore_index)?;
        let own = logits.f_gather(1, &place.at.f_unsqueeze(1)?, false)?.f_squeeze_dim(1)?;
        let cost = logits.f_logsumexp([1i64], false)?.f_sub(&own)?.f_where_scalarother(&valid, 0.0)?;
        // Only an accelerator's labels come here unseen: an assert of its own would end the process.
        let cost = cost.f_masked_fill(&place.stray, f64::NAN)?;
        Ok(cost.f_sum(kind)?.f_div(&count.f_clamp_min(1)?.f_to_kind(kind)?)?)
    }
}

/// Channels scaled to length one; by the largest magnitude first, so that squares neither overflow nor vanish.
pub(crate) fn unit(map_bdhw: &Tensor, kind: Kind) -> Result<Tensor> {
    let tiny = if kind == Kind::Double { 1e-150 } else { 1e-30 };
    let peak = map_bdhw.f_detach()?.f_abs()?.f_amax([1i64], true)?;
    let dead = peak.f_lt(tiny)?;
    let scaled = map_bdhw.f_div(&peak.f_masked_fill(&dead, 1.0)?)?.f_masked_fill(&dead, 0.0)?;
    let norm = scaled.f_square()?.f_sum_dim_intlist(1i64, true, kind)?.f_masked_fill(&dead, 1.0)?.f_sqrt()?;
    Ok(scaled.f_div(&norm)?)
}

/// Bool [B,H,W]: labelled with a class that has been seen.
fn valid_pixels(label_bhw: &Tensor, ignore_index: i64, seen_k: Option<&Tensor>, classes: i64) -> Result<Tensor> {
    let valid = label_bhw.f_ne(ignore_index)?;
    let Some(seen_k) = seen_k else { return Ok(valid) };
    let at = label_bhw.f_to_kind(Kind::Int64)?.f_clamp(0, classes - 1)?;
    let seen = seen_k.f_index_select(0, &at.f_flatten(0, -1)?)?.f_view_as(&at)?;
    Ok(valid.f_logical_and(&seen)?)
}
