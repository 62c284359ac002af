//! Distance of features to those of the frozen network they started from: DAFormer's, of thing classes to ImageNet's, and
//! the cosine form for foundation encoders.

use crate::choices;
use crate::error::{Error, Result};
use crate::group::{part_of_mean, Group};
use crate::host::slice::{check_ids, labels, output, Id};
use crate::host::{self, pool};
use crate::shape::{check_device, check_float, check_integer, check_rank, check_size};
use crate::with_labels;
use rayon::prelude::*;
use tch::{Device, Kind, Reduction, Tensor};

/// Most frequent class of each `scale` x `scale` cell of a label [B,1,H,W], as i64 [B,1,H/scale,W/scale] (remaining rows
/// and columns are dropped). A cell whose most frequent class covers less than `min_ratio` of it, or is the ignored id,
/// becomes `ignore_index`. Ties go to the lowest class, the ignored id coming last. On the host an id outside the
/// classes is an error; elsewhere it counts as ignored.
pub fn downscale_label(
    label_b1hw: &Tensor,
    scale: i64,
    min_ratio: f64,
    num_classes: i64,
    ignore_index: i64,
) -> Result<Tensor> {
    check_rank(label_b1hw, 4, "label_b1hw", "[B,1,H,W]")?;
    check_integer(label_b1hw, "label_b1hw")?;
    let size = label_b1hw.size();
    if size[1] != 1 {
        return Err(Error::shape(format!("label_b1hw: expected [B,1,H,W], got shape {size:?}")));
    }
    if scale < 1 || size[2] < scale || size[3] < scale {
        return Err(Error::value(format!("scale: expected 1 up to the label's size {size:?}, got {scale}")));
    }
    if !(1..=65_536).contains(&num_classes) {
        return Err(Error::value(format!("num_classes: expected 1 to 65536, got {num_classes}")));
    }
    if label_b1hw.device() == Device::Cpu {
        check_ids(label_b1hw, num_classes, ignore_index, "label_b1hw")?;
    }
    if host::fused(&[label_b1hw]) {
        return downscale_host(label_b1hw, scale, min_ratio, num_classes, ignore_index);
    }
    downscale_ops(label_b1hw, scale, min_ratio, num_classes, ignore_index)
}

fn downscale_ops(label: &Tensor, scale: i64, min_ratio: f64, classes: i64, ignore: i64) -> Result<Tensor> {
    let size = label.size();
    let (rows, columns) = (size[2] / scale, size[3] / scale);
    let label = label.f_narrow(2, 0, rows * scale)?.f_narrow(3, 0, columns * scale)?.f_to_kind(Kind::Int64)?;
    let inside = label.f_ge(0)?.f_logical_and(&label.f_lt(classes)?)?;
    let cells = label.f_where_scalarother(&inside, classes)?.f_reshape([size[0], rows, scale, columns, scale])?;
    let cells = cells.f_permute([0, 1, 3, 2, 4])?.f_reshape([size[0], rows, columns, scale * scale])?;
    let counts = Tensor::f_zeros([size[0], rows, columns, classes + 1], (Kind::Int64, label.device()))?;
    let counts = counts.f_scatter_add(3, &cells, &cells.f_ones_like()?)?;
    // The maximum of count * (C + 1) + (C - class) has the largest count, and the lowest class among equals.
    let rank = Tensor::f_arange(classes + 1, (Kind::Int64, label.device()))?.f_neg()?.f_add_scalar(classes)?;
    let best = counts.f_mul_scalar(classes + 1)?.f_add(&rank)?.f_amax([3], false)?;
    let class = best.f_remainder(classes + 1)?.f_neg()?.f_add_scalar(classes)?;
    let count = best.f_divide_scalar_mode(classes + 1, "floor")?;
    let ratio = count.f_to_kind(Kind::Float)?.f_div_scalar((scale * scale) as f64)?;
    let dropped = ratio.f_lt(min_ratio)?.f_logical_or(&class.f_eq(classes)?)?;
    Ok(class.f_masked_fill(&dropped, ignore)?.f_unsqueeze(1)?)
}

fn downscale_host(label: &Tensor, scale: i64, min_ratio: f64, classes: i64, ignore: i64) -> Result<Tensor> {
    let size = label.size();
    let (height, width, s) = (size[2] as usize, size[3] as usize, scale as usize);
    let (rows, columns) = (height / s, width / s);
    let least = min_ratio as f32;
    let mut small = output::<i64>(&[size[0], 1, rows as i64, columns as i64])?;
    let out: &mut [i64] = &mut small;
    let labels = labels(label)?;
    with_labels!(labels, slice => pool::run(|| {
        out.par_chunks_mut(columns).enumerate().for_each_init(
            || vec![0u32; classes as usize + 1],
            |counts, (row, out)| {
                let first = (row / rows) * height + (row % rows) * s;
                for (column, out) in out.iter_mut().enumerate() {
                    let cell = (first..first + s).map(|y| &slice[y * width + column * s..y * width + column * s + s]);
                    let (class, count) = most_frequent(cell, counts, classes);
                    let ratio = count as f32 / (s * s) as f32;
                    *out = if ratio < least || class == classes { ignore } else { class };
                }
            },
        );
    }));
    Ok(small.into_tensor())
}

/// Most frequent id of a cell and its count; ids outside the classes count as class `classes`. Leaves `counts` at zero.
fn most_frequent<'a, T: Id>(rows: impl Iterator<Item = &'a [T]>, counts: &mut [u32], classes: i64) -> (i64, u32) {
    let column = |v: T| if (v.id() as u64) < classes as u64 { v.id() as usize } else { classes as usize };
    let (mut low, mut high) = (usize::MAX, 0);
    for row in rows {
        let first = row[0];
        // Rows of one class are common, and the comparison of a whole row vectorises.
        if row.iter().fold(true, |same, &v| same & (v == first)) {
            let c = column(first);
            counts[c] += row.len() as u32;
            (low, high) = (low.min(c), high.max(c));
        } else {
            for &v in row {
                let c = column(v);
                counts[c] += 1;
                (low, high) = (low.min(c), high.max(c));
            }
        }
    }
    let (mut class, mut count) = (low, counts[low]);
    for (c, n) in counts.iter_mut().enumerate().take(high + 1).skip(low) {
        if *n > count {
            (class, count) = (c, *n);
        }
        *n = 0;
    }
    (class as i64, count)
}

choices! {
    /// How far the features of a position are from those of the frozen network.
    pub enum DistanceForm {
        /// Euclidean norm of their difference (DAFormer).
        Euclidean = "euclidean",
        /// 0.9 (1 - cosine) + 0.1 smooth L1, the mean over channels (foundation encoders; VFM-UDA++).
        Cosine = "cosine",
    }
}

impl DistanceForm {
    /// Distance [B,h,w] of features [B,D,h,w] to `reference`, which gets no gradient; in f32 at least.
    pub fn per_position(self, feat: &Tensor, reference: &Tensor) -> Result<Tensor> {
        check_rank(feat, 4, "feat", "[B,D,H,W]")?;
        check_float(feat, "feat")?;
        check_float(reference, "feat_imagenet")?;
        check_size(reference, &feat.size(), "feat_imagenet")?;
        check_device(reference, "feat_imagenet", feat, "feat")?;
        let wide = if feat.f_kind()? == Kind::Double { Kind::Double } else { Kind::Float };
        let (feat, reference) = (feat.f_to_kind(wide)?, reference.f_detach()?.f_to_kind(wide)?);
        let difference = feat.f_sub(&reference)?;
        match self {
            Self::Euclidean => Ok(difference.f_norm_scalaropt_dim(2.0, [1], false)?),
            Self::Cosine => {
                let turned = Tensor::f_cosine_similarity(&feat, &reference, 1, 1e-8)?.f_neg()?.f_add_scalar(1.0)?;
                let smooth = difference.f_smooth_l1_loss(&difference.f_zeros_like()?, Reduction::None, 1.0)?;
                let smooth = smooth.f_mean_dim(1i64, false, wide)?;
                Ok(turned.f_mul_scalar(0.9)?.f_add(&smooth.f_mul_scalar(0.1)?)?)
            }
        }
    }
}

/// Settings. `classes`: positions whose downscaled label is one of these count (thing classes); None: all positions.
#[derive(Clone, Debug)]
pub struct FeatureDistance {
    pub form: DistanceForm,
    pub classes: Option<Vec<i64>>,
    pub min_ratio: f64,
    pub num_classes: i64,
    pub weight: f64,
    pub ignore_index: i64,
}

impl FeatureDistance {
    /// weight * mean over counted positions of the distance to `feat_imagenet`; 0-dim.
    ///
    /// Features [B,D,h,w]; label [B,1,H,W], whose size over the features' is the (integer) scale of `downscale_label`.
    /// No counted position gives a 0 that keeps the graph (the released code gives NaN). Half precision is computed in
    /// f32. The gradient at equal features is 0. It is this process's part of the mean over the positions of all processes.
    pub fn forward(
        &self,
        group: &dyn Group,
        feat: &Tensor,
        feat_imagenet: &Tensor,
        label_b1hw: &Tensor,
    ) -> Result<Tensor> {
        let distance = self.form.per_position(feat, feat_imagenet)?;
        let wide = distance.f_kind()?;
        let Some(classes) = &self.classes else {
            let count = distance.numel().max(1) as f64;
            return Ok(distance.f_sum(wide)?.f_mul_scalar(self.weight / count)?);
        };
        let mask = self.mask(feat, label_b1hw, classes)?;
        let counted = mask.f_sum(Kind::Int64)?;
        let count = counted.f_clamp_min(1)?.f_to_kind(wide)?;
        let kept = distance.f_where_scalarother(&mask, 0.0)?;
        part_of_mean(group, &kept.f_sum(wide)?.f_div(&count)?.f_mul_scalar(self.weight)?, || Ok(counted))
    }

    /// Bool [B,h,w]: the position's downscaled label is one of the classes.
    fn mask(&self, feat: &Tensor, label_b1hw: &Tensor, classes: &[i64]) -> Result<Tensor> {
        check_device(label_b1hw, "label_b1hw", feat, "feat")?;
        check_rank(label_b1hw, 4, "label_b1hw", "[B,1,H,W]")?;
        let (small, large) = (feat.size(), label_b1hw.size());
        let scale = if small[3] > 0 { large[3] / small[3] } else { 0 };
        if scale < 1 || small[0] != large[0] || large[2] / scale != small[2] || large[3] / scale != small[3] {
            return Err(Error::shape(format!(
                "feature_distance: no integer scale takes label_b1hw {large:?} to the size of feat {small:?}"
            )));
        }
        let label = downscale_label(label_b1hw, scale, self.min_ratio, self.num_classes, self.ignore_index)?;
        let mut mask = Tensor::f_zeros_like(&label)?.f_to_kind(Kind::Bool)?;
        for &class in classes {
            mask = mask.f_logical_or(&label.f_eq(class)?)?;
        }
        Ok(mask.f_squeeze_dim(1)?)
    }
}
