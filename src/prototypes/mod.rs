//! Class prototypes (ProDA, CVPR 2021, section 3): one mean feature per class, and what the distances of a pixel to them say
//! about its class.
//!
//! Suffixes: B batch, D channels, H W size, K classes.

pub(crate) mod distance;
mod label;
mod update;

pub use label::rectified_label;
pub use update::{class_moments, prototype_update, ClassMoments};

use crate::error::{Error, Result};
use crate::host::{fused, fused_without_grad, slice};
use crate::shape::{check_device, check_float, check_integer, check_positive, check_rank, check_size};
use crate::surrogate::compute_kind;
use tch::{Device, Kind, Tensor};

/// Features [B,D,H,W] and one row per class [K,D] fit together.
pub(crate) fn check_rows(feat: &Tensor, feat_name: &str, rows_kd: &Tensor, rows_name: &str) -> Result<()> {
    check_rank(feat, 4, feat_name, "[B,D,H,W]")?;
    check_float(feat, feat_name)?;
    check_rank(rows_kd, 2, rows_name, "[K,D]")?;
    check_float(rows_kd, rows_name)?;
    check_device(rows_kd, rows_name, feat, feat_name)?;
    let (classes, channels) = (rows_kd.size()[0], feat.size()[1]);
    if classes < 1 || channels < 1 {
        return Err(Error::shape(format!(
            "{rows_name}: expected at least one class and one channel, got shape {:?} for {feat_name} {:?}",
            rows_kd.size(),
            feat.size()
        )));
    }
    check_size(rows_kd, &[classes, channels], &format!("{rows_name} (the channels of {feat_name})"))
}

/// A label [B,H,W] on the grid of `map` [B,*,H,W], with ids of `classes` or `ignore`; ids are looked at on the host only.
pub(crate) fn check_label(label: &Tensor, map: &Tensor, map_name: &str, classes: i64, ignore: i64) -> Result<()> {
    check_rank(label, 3, "label_bhw", "[B,H,W]")?;
    check_integer(label, "label_bhw")?;
    check_device(label, "label_bhw", map, map_name)?;
    let size = map.size();
    check_size(label, &[size[0], size[2], size[3]], &format!("label_bhw (the grid of {map_name})"))?;
    if label.device() == Device::Cpu {
        slice::check_ids(label, classes, ignore, "label_bhw")?;
    }
    Ok(())
}

/// Which classes have been seen: a bool [K] on the device of the prototypes.
pub(crate) fn check_seen(seen_k: Option<&Tensor>, rows_kd: &Tensor, rows_name: &str) -> Result<()> {
    let Some(seen_k) = seen_k else { return Ok(()) };
    if seen_k.f_kind()? != Kind::Bool {
        return Err(Error::dtype(format!("seen_k: expected a bool tensor, got {:?}", seen_k.f_kind()?)));
    }
    check_size(seen_k, &[rows_kd.size()[0]], "seen_k (one per class)")?;
    check_device(seen_k, "seen_k", rows_kd, rows_name)
}

/// softmax_k(-|f_i - eta_k| / temperature) as [B,K,H,W], in float64 for features `feat_bdhw` [B,D,H,W] in float64, else in
/// float32; on the graph of features and prototypes. An unseen class takes the mean distance of the seen ones.
pub fn prototype_weights(
    feat_bdhw: &Tensor,
    proto_kd: &Tensor,
    temperature: f64,
    seen_k: Option<&Tensor>,
) -> Result<Tensor> {
    check_rows(feat_bdhw, "feat_bdhw", proto_kd, "proto_kd")?;
    check_seen(seen_k, proto_kd, "proto_kd")?;
    check_positive(temperature, "temperature")?;
    let kind = compute_kind(feat_bdhw)?;
    if kind == Kind::Float && fused(&[feat_bdhw]) && fused_without_grad(&[feat_bdhw, proto_kd]) {
        return distance::weights_host(feat_bdhw, proto_kd, temperature, seen_k);
    }
    Ok(log_weights_ops(feat_bdhw, proto_kd, temperature, seen_k)?.f_exp()?)
}

/// log softmax_k(-distance / temperature) [B,K,H,W] by libtorch operations.
pub(crate) fn log_weights_ops(
    feat_bdhw: &Tensor,
    proto_kd: &Tensor,
    temperature: f64,
    seen_k: Option<&Tensor>,
) -> Result<Tensor> {
    let kind = compute_kind(feat_bdhw)?;
    let distance = distances_ops(&feat_bdhw.f_to_kind(kind)?, &proto_kd.f_to_kind(kind)?)?;
    let distance = match seen_k {
        None => distance,
        Some(seen_k) => {
            let seen = seen_k.f_reshape([1, -1, 1, 1])?;
            let count = seen_k.f_sum(kind)?.f_clamp_min(1)?;
            let kept = distance.f_where_scalarother(&seen, 0.0)?;
            let mean = kept.f_sum_dim_intlist(1i64, true, kind)?.f_div(&count)?;
            distance.f_where_self(&seen, &mean)?
        }
    };
    Ok(distance.f_mul_scalar(-1.0 / temperature)?.f_log_softmax(1, kind)?)
}

/// Euclidean distances [B,K,H,W], from differences: |f|^2 - 2 f.eta + |eta|^2 loses them where features are long. Everything
/// is scaled by the largest magnitude first, so that no square overflows.
fn distances_ops(feat_bdhw: &Tensor, proto_kd: &Tensor) -> Result<Tensor> {
    let size = feat_bdhw.size();
    if feat_bdhw.numel() == 0 {
        return Ok(feat_bdhw
            .f_sum_dim_intlist(1i64, true, feat_bdhw.f_kind()?)?
            .f_expand([size[0], proto_kd.size()[0], size[2], size[3]], false)?);
    }
    let peak = feat_bdhw.f_detach()?.f_abs()?.f_amax([] as [i64; 0], false)?;
    let peak = peak.f_maximum(&proto_kd.f_detach()?.f_abs()?.f_amax([] as [i64; 0], false)?)?;
    // A power of two: the scaling is exact, and no pixel's distances depend on another pixel.
    let peak = peak.f_masked_fill(&peak.f_eq(0.0)?, 1.0)?.f_log2()?.f_ceil()?.f_exp2()?;
    let proto = proto_kd.f_div(&peak)?.f_unsqueeze(0)?;
    let rows = feat_bdhw.f_div(&peak)?.f_flatten(2, 3)?.f_transpose(1, 2)?;
    // 2: never by matrix products
    let distance = Tensor::f_cdist(&rows, &proto.f_expand([size[0], -1, -1], false)?, 2.0, 2)?;
    Ok(distance.f_mul(&peak)?.f_transpose(1, 2)?.f_unflatten(2, [size[2], size[3]])?)
}
