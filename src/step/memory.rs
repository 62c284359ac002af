//! What the iteration remembers of whole classes: prototypes of the target and distributions of the embeddings.

use crate::error::{Error, Result};
use crate::group::Group;
use crate::loss::distribution::{decay, ClassDistribution};
use crate::prototypes::class_moments;
use crate::shape::{check_rank, check_size};
use crate::surrogate::compute_kind;
use tch::{no_grad, Kind, Tensor};

/// One mean feature per class. Tensors are replaced, never written to.
pub struct Prototypes {
    /// [K,D]
    pub proto_kd: Tensor,
    /// Iterations that have moved each class, int64 [K]; 0: never seen.
    pub updates_k: Tensor,
}

impl Prototypes {
    pub fn from_state(proto_kd: Tensor, updates_k: Tensor) -> Result<Self> {
        check_rank(&proto_kd, 2, "prototypes", "[K,D]")?;
        check_size(&updates_k, &proto_kd.size()[..1], "prototypes: updates")?;
        Ok(Self { proto_kd, updates_k })
    }

    fn like(feat_bdhw: &Tensor, classes: i64) -> Result<Self> {
        let (kind, device) = (compute_kind(feat_bdhw)?, feat_bdhw.device());
        Ok(Self {
            proto_kd: Tensor::f_zeros([classes, feat_bdhw.size()[1]], (kind, device))?,
            updates_k: Tensor::f_zeros([classes], (Kind::Int64, device))?,
        })
    }

    pub fn seen_k(&self) -> Result<Tensor> {
        Ok(self.updates_k.f_gt(0)?)
    }

    /// Moves the prototypes of classes with at least `min_pixels` pixels in the joined batch towards their means there.
    /// The decay is min(1 - 1/(u+1), momentum), u the updates so far: without first values a class starts from the means of
    /// its first batches.
    fn update(
        &self,
        group: &dyn Group,
        feat_bdhw: &Tensor,
        label_bhw: &Tensor,
        momentum: f64,
        least: i64,
    ) -> Result<Self> {
        no_grad(|| {
            let classes = self.proto_kd.size()[0];
            let found = class_moments(group, feat_bdhw, label_bhw, classes, None)?;
            let kind = self.proto_kd.f_kind()?;
            let mean = found.sum_kd.f_div(&found.count_k.f_clamp_min(1)?.f_unsqueeze(1)?)?.f_to_kind(kind)?;
            let keep = decay(&self.updates_k, momentum, kind)?;
            let moved = self.proto_kd.f_mul(&keep)?.f_add(&mean.f_mul(&keep.f_neg()?.f_add_scalar(1.0)?)?)?;
            let enough = found.count_k.f_ge(least)?;
            Ok(Self {
                proto_kd: moved.f_where_self(&enough.f_unsqueeze(1)?, &self.proto_kd)?,
                updates_k: self.updates_k.f_add(&enough.f_to_kind(Kind::Int64)?)?,
            })
        })
    }
}

/// Both memories; made when the number of channels is known.
#[derive(Default)]
pub struct ClassMemory {
    pub prototypes: Option<Prototypes>,
    pub distribution: Option<ClassDistribution>,
}

impl ClassMemory {
    /// The same memories; later updates of one do not show in the other.
    pub fn duplicate(&self) -> Self {
        Self {
            prototypes: self
                .prototypes
                .as_ref()
                .map(|p| Prototypes { proto_kd: p.proto_kd.shallow_clone(), updates_k: p.updates_k.shallow_clone() }),
            distribution: self.distribution.as_ref().map(ClassDistribution::duplicate),
        }
    }

    /// The prototypes as they are before this iteration's update; all classes unseen at first.
    pub fn prototypes_for(&mut self, feat_bdhw: &Tensor, classes: i64) -> Result<&Prototypes> {
        check_rank(feat_bdhw, 4, "prototype features", "[B,D,H,W]")?;
        let fresh = match &self.prototypes {
            None => Some(Prototypes::like(feat_bdhw, classes)?),
            Some(_) => None,
        };
        let prototypes = match fresh {
            Some(fresh) => self.prototypes.insert(fresh),
            None => self.prototypes.as_mut().ok_or_else(|| Error::value("no prototypes"))?,
        };
        check_size(&prototypes.proto_kd, &[classes, feat_bdhw.size()[1]], "prototypes (classes, channels of the map)")?;
        Ok(prototypes)
    }

    pub fn move_prototypes(
        &mut self,
        group: &dyn Group,
        feat_bdhw: &Tensor,
        label_bhw: &Tensor,
        momentum: f64,
        least: i64,
    ) -> Result<()> {
        if let Some(prototypes) = &self.prototypes {
            self.prototypes = Some(prototypes.update(group, feat_bdhw, label_bhw, momentum, least)?);
        }
        Ok(())
    }

    /// The distributions, made for the channels of `embedding_bdhw` if there are none yet.
    pub fn distribution_for(&mut self, embedding_bdhw: &Tensor, classes: i64) -> Result<&mut ClassDistribution> {
        check_rank(embedding_bdhw, 4, "pixel embedding", "[B,D,H,W]")?;
        if self.distribution.is_none() {
            let (kind, device) = (compute_kind(embedding_bdhw)?, embedding_bdhw.device());
            self.distribution = Some(ClassDistribution::new(classes, embedding_bdhw.size()[1], kind, device)?);
        }
        self.distribution.as_mut().ok_or_else(|| Error::value("no distributions"))
    }
}
