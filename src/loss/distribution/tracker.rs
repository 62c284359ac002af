//! Running mean and diagonal variance of the embeddings of each class.

use super::unit;
use crate::error::{Error, Result};
use crate::group::Group;
use crate::prototypes::class_moments;
use crate::shape::{check_rank, check_size};
use crate::surrogate::compute_kind;
use tch::{no_grad, Device, Kind, Tensor};

/// State of the running moments; `update` replaces its tensors.
pub struct ClassDistribution {
    /// [K,D], f32 or f64.
    pub mean_kd: Tensor,
    pub var_kd: Tensor,
    /// Batches that have changed each class, int64 [K]; 0: never seen.
    pub updates_k: Tensor,
}

impl ClassDistribution {
    pub fn new(classes: i64, channels: i64, kind: Kind, device: Device) -> Result<Self> {
        let mean_kd = Tensor::f_zeros([classes, channels], (kind, device))?;
        let var_kd = mean_kd.f_zeros_like()?;
        Ok(Self { mean_kd, var_kd, updates_k: Tensor::f_zeros([classes], (Kind::Int64, device))? })
    }

    /// From saved tensors, which are not changed.
    pub fn from_state(mean_kd: Tensor, var_kd: Tensor, updates_k: Tensor) -> Result<Self> {
        check_rank(&mean_kd, 2, "distribution: mean", "[K,D]")?;
        check_size(&var_kd, &mean_kd.size(), "distribution: variance")?;
        check_size(&updates_k, &mean_kd.size()[..1], "distribution: updates")?;
        Ok(Self { mean_kd, var_kd, updates_k })
    }

    pub fn duplicate(&self) -> Self {
        // Tensors are replaced, never written to.
        Self {
            mean_kd: self.mean_kd.shallow_clone(),
            var_kd: self.var_kd.shallow_clone(),
            updates_k: self.updates_k.shallow_clone(),
        }
    }

    pub fn seen_k(&self) -> Result<Tensor> {
        Ok(self.updates_k.f_gt(0)?)
    }

    /// Takes in the embeddings [B,D,H,W] (scaled to length one here) of the labelled pixels of all processes; labels outside
    /// 0..K count nowhere. With a = min(1 - 1/(u+1), momentum), u the updates so far:
    /// mean <- a mean + (1 - a) m, var <- a var + (1 - a) v + a (1 - a) (m - mean)^2, the moments of the mixture.
    pub fn update(
        &mut self,
        group: &dyn Group,
        embedding_bdhw: &Tensor,
        label_bhw: &Tensor,
        momentum: f64,
    ) -> Result<()> {
        let (classes, channels) = (self.mean_kd.size()[0], self.mean_kd.size()[1]);
        if embedding_bdhw.size()[1] != channels {
            return Err(Error::shape(format!(
                "embedding: expected {channels} channels as the running moments have, got shape {:?}",
                embedding_bdhw.size()
            )));
        }
        no_grad(|| {
            let kind = compute_kind(embedding_bdhw)?;
            let e = unit(&embedding_bdhw.f_detach()?.f_to_kind(kind)?, kind)?;
            let found = class_moments(group, &e, label_bhw, classes, Some(&self.mean_kd))?;
            let Some(square_kd) = found.square_kd else {
                return Err(Error::value("distribution: no squares were summed"));
            };
            let count = found.count_k.f_clamp_min(1)?.f_unsqueeze(1)?;
            let gap = found.sum_kd.f_div(&count)?.f_sub(&self.mean_kd)?;
            let square = square_kd.f_div(&count)?; // v + (m - mean)^2
            let keep = decay(&self.updates_k, momentum, kind)?;
            let take = keep.f_neg()?.f_add_scalar(1.0)?;
            let mean = self.mean_kd.f_add(&gap.f_mul(&take)?)?;
            // a var + (1-a) [v + (m-mean)^2] - (1-a)^2 (m-mean)^2
            let var = self.var_kd.f_mul(&keep)?.f_add(&square.f_mul(&take)?)?;
            let var = var.f_sub(&gap.f_mul(&take)?.f_square()?)?.f_clamp_min(0.0)?;
            let here = found.count_k.f_gt(0)?;
            self.mean_kd = mean.f_where_self(&here.f_unsqueeze(1)?, &self.mean_kd)?;
            self.var_kd = var.f_where_self(&here.f_unsqueeze(1)?, &self.var_kd)?;
            self.updates_k = self.updates_k.f_add(&here.f_to_kind(Kind::Int64)?)?;
            Ok(())
        })
    }
}

/// min(1 - 1/(updates+1), momentum) as [K,1]: the first batch is copied, early ones are averaged.
pub(crate) fn decay(updates_k: &Tensor, momentum: f64, kind: Kind) -> Result<Tensor> {
    let next = updates_k.f_add_scalar(1)?.f_to_kind(kind)?;
    Ok(next.f_reciprocal()?.f_neg()?.f_add_scalar(1.0)?.f_clamp_max(momentum)?.f_unsqueeze(1)?)
}
