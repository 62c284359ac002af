//! Moving prototypes (ProDA, equation 6), and the sums over the pixels of each class that they are made of.

use super::{check_label, check_rows};
use crate::error::{Error, Result};
use crate::group::{Group, SingleProcess};
use crate::shape::{check_float, check_rank};
use crate::surrogate::compute_kind;
use tch::{no_grad, Kind, Tensor};

/// Sums over the labelled pixels of a joined batch.
pub struct ClassMoments {
    /// Pixels of each class [K], in the dtype of the sums.
    pub count_k: Tensor,
    /// Sum of their features [K,D].
    pub sum_kd: Tensor,
    /// Sum of their squared differences to `centre_kd` [K,D], if one was given.
    pub square_kd: Option<Tensor>,
}

/// Sums of `feat_bdhw` [B,D,H,W] over the pixels of each class of `label_bhw`; ids outside 0..K count nowhere. By matrix
/// products, image by image: no copy of the features in another order.
pub fn class_moments(
    group: &dyn Group,
    feat_bdhw: &Tensor,
    label_bhw: &Tensor,
    classes: i64,
    centre_kd: Option<&Tensor>,
) -> Result<ClassMoments> {
    no_grad(|| {
        let kind = compute_kind(feat_bdhw)?;
        let (images, channels) = (feat_bdhw.size()[0], feat_bdhw.size()[1]);
        let device = feat_bdhw.device();
        let class_k = Tensor::f_arange(classes, (Kind::Int64, device))?;
        let mut count_k = Tensor::f_zeros([classes], (kind, device))?;
        let mut sum_kd = Tensor::f_zeros([classes, channels], (kind, device))?;
        let mut square_kd = sum_kd.f_zeros_like()?;
        for image in 0..images {
            let label_p = label_bhw.f_select(0, image)?.f_reshape([1, -1])?.f_to_kind(Kind::Int64)?;
            let member_kp = class_k.f_unsqueeze(1)?.f_eq_tensor(&label_p)?.f_to_kind(kind)?;
            let feat_dp = feat_bdhw.f_detach()?.f_select(0, image)?.f_reshape([channels, -1])?.f_to_kind(kind)?;
            count_k = count_k.f_add(&member_kp.f_sum_dim_intlist(1i64, false, kind)?)?;
            let part_kd = member_kp.f_matmul(&feat_dp.f_transpose(0, 1)?)?;
            if let Some(centre_kd) = centre_kd {
                // Each pixel against the centre of its own class: no difference of large squares.
                let own_dp = centre_kd.f_to_kind(kind)?.f_transpose(0, 1)?.f_matmul(&member_kp)?;
                let gap_dp = feat_dp.f_sub(&own_dp)?.f_square()?;
                square_kd = square_kd.f_add(&member_kp.f_matmul(&gap_dp.f_transpose(0, 1)?)?)?;
            }
            sum_kd = sum_kd.f_add(&part_kd)?;
        }
        let mut square = None;
        if group.world() > 1 {
            count_k = group.sum(&count_k)?;
            sum_kd = group.sum(&sum_kd)?;
            if centre_kd.is_some() {
                square = Some(group.sum(&square_kd)?);
            }
        } else if centre_kd.is_some() {
            square = Some(square_kd);
        }
        Ok(ClassMoments { count_k, sum_kd, square_kd: square })
    })
}

/// eta_k <- momentum eta_k + (1 - momentum) mean of the features of class k; classes of fewer than `min_pixels` pixels are
/// left alone. A new tensor of the dtype of `proto_kd`, without a graph.
pub fn prototype_update(
    proto_kd: &Tensor,
    feat_bdhw: &Tensor,
    label_bhw: &Tensor,
    momentum: f64,
    min_pixels: i64,
    ignore_index: i64,
) -> Result<Tensor> {
    check_rank(proto_kd, 2, "proto_kd", "[K,D]")?;
    check_float(proto_kd, "proto_kd")?;
    check_rows(feat_bdhw, "feat_bdhw", proto_kd, "proto_kd")?;
    let classes = proto_kd.size()[0];
    check_label(label_bhw, feat_bdhw, "feat_bdhw", classes, ignore_index)?;
    if !(0.0..=1.0).contains(&momentum) {
        return Err(Error::value(format!("momentum: expected 0 to 1, got {momentum}")));
    }
    if min_pixels < 1 {
        return Err(Error::value(format!("min_pixels: expected at least 1, got {min_pixels}")));
    }
    let label_bhw = without(label_bhw, ignore_index)?;
    let moments = class_moments(&SingleProcess, feat_bdhw, &label_bhw, classes, None)?;
    no_grad(|| {
        let kind = moments.sum_kd.f_kind()?;
        let old = proto_kd.f_detach()?.f_to_kind(kind)?;
        let mean = moments.sum_kd.f_div(&moments.count_k.f_clamp_min(1)?.f_unsqueeze(1)?)?;
        let moved = old.f_mul_scalar(momentum)?.f_add(&mean.f_mul_scalar(1.0 - momentum)?)?;
        let enough = moments.count_k.f_ge(min_pixels)?.f_unsqueeze(1)?;
        // As it was, not rounded twice, where a class is left alone.
        Ok(moved.f_to_kind(proto_kd.f_kind()?)?.f_where_self(&enough, &proto_kd.f_detach()?)?)
    })
}

/// The label with -1 where it is ignored, whatever the ignored id.
fn without(label_bhw: &Tensor, ignore_index: i64) -> Result<Tensor> {
    Ok(label_bhw.f_to_kind(Kind::Int64)?.f_masked_fill(&label_bhw.f_eq(ignore_index)?, -1)?)
}
