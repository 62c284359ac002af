//! The pixel contrast as the research code computes it, stable for features of any length.
//!
//!   log_prob_ij = s_ij - log(exp(s_ij) + sum over k of another class of exp(s_ik)),   s_ij = f_i . f_j / tau
//!   loss = -(tau / base_tau) mean over i of the mean over j != i of the same class of log_prob_ij
//!
//! It differs from the paper: every pair has its own denominator (no other positives in it), features are not
//! normalised, and the factor tau/base_tau is there. With L_i the log-sum-exp over the other classes, log_prob_ij is
//! -softplus(L_i - s_ij), which neither overflows nor takes the logarithm of an underflown zero, as the original does.
//!
//! Suffixes: A groups, V views of one class each, D channels, N = A V rows.

use super::contrast::{blocks, tile_for};
use crate::error::{Error, Result};
use crate::shape::{check_device, check_float, check_positive, check_rank, check_size};
use crate::surrogate::{attach, compute_kind, wants_grad};
use tch::{Kind, Tensor};

/// `feat_avd` [A,V,D] of any length, `label_a` [A] class of each group (integers; whole floats are taken too).
/// Rows without a positive do not count; without any the loss is a zero that keeps the graph (the original: NaN).
pub fn pixel_contrast_official(
    feat_avd: &Tensor,
    label_a: &Tensor,
    temperature: f64,
    base_temperature: f64,
) -> Result<Tensor> {
    check_positive(temperature, "temperature")?;
    check_positive(base_temperature, "base_temperature")?;
    let (feat_nd, label_n) = flat_rows(feat_avd, label_a)?;
    let want = wants_grad(&feat_nd)?;
    let kind = compute_kind(&feat_nd)?;
    let f_nd = feat_nd.f_detach()?.f_to_kind(kind)?;
    let n = f_nd.size()[0];
    let options = (kind, f_nd.device());
    let mut total = Tensor::f_zeros([] as [i64; 0], options)?;
    let mut counted = Tensor::f_zeros([] as [i64; 0], options)?;
    let mut grad_nd = f_nd.f_zeros_like()?;
    if n > 0 {
        let (rows, _) = tile_for(n, n, f_nd.device());
        let buffer = Tensor::f_empty([rows * n], options)?;
        let column_n = Tensor::f_arange(n, (Kind::Int64, f_nd.device()))?;
        for (i, r) in blocks(n, rows) {
            let f_rd = f_nd.f_narrow(0, i, r)?;
            let out = buffer.f_narrow(0, 0, r * n)?.f_view([r, n])?;
            let score = f_rd.f_div_scalar(temperature)?.f_mm_out(&out, &f_nd.f_tr()?)?;
            let same = label_n.f_narrow(0, i, r)?.f_unsqueeze(1)?.f_eq_tensor(&label_n)?;
            let own = column_n.f_narrow(0, i, r)?.f_unsqueeze(1)?.f_eq_tensor(&column_n)?;
            let mut positive = same.f_logical_and(&own.f_logical_not()?)?.f_to_kind(kind)?;
            let number_r1 = positive.f_sum_dim_intlist(1i64, true, kind)?;
            let counts_r1 = number_r1.f_gt(0.0)?.f_to_kind(kind)?;

            let other = score.f_masked_fill(&same, f64::NEG_INFINITY)?;
            let other_r1 = other.f_logsumexp([1i64], true)?;
            let gap = other_r1.f_sub(&score)?;
            let share = positive.f_div_(&number_r1.f_clamp_min(1.0)?)?;
            // A class alone has gap = -inf: log_prob 0. Pairs that are no positives must not turn inf into NaN.
            let cost = gap.f_neg()?.f_log_sigmoid()?.f_masked_fill(&share.f_eq(0.0)?, 0.0)?;
            total = total.f_sub(&cost.f_mul(&share)?.f_sum(kind)?)?;
            counted = counted.f_add(&counts_r1.f_sum(kind)?)?;
            if want {
                let pull = gap.f_sigmoid()?.f_mul_(&share)?;
                let push_r1 = pull.f_sum_dim_intlist(1i64, true, kind)?;
                let finite_r1 = other_r1.f_nan_to_num(f64::NAN, f64::INFINITY, 0.0)?;
                let weight = other.f_sub(&finite_r1)?.f_exp_()?.f_mul_(&push_r1)?.f_sub_(&pull)?;
                let _ = grad_nd.f_narrow(0, i, r)?.f_addmm_(&weight, &f_nd)?;
                let _ = grad_nd.f_addmm_(&weight.f_tr()?, &f_rd)?;
            }
        }
    }
    let counted = counted.f_clamp_min(1.0)?;
    let value = total.f_div(&counted)?.f_mul_scalar(temperature / base_temperature)?;
    let grad_nd = grad_nd.f_div_(&counted)?.f_div_scalar_(base_temperature)?;
    attach(value, &[(&feat_nd, grad_nd)])
}

/// [A,V,D] features and [A] labels as [A V, D] rows and int64 [A V].
pub fn flat_rows(feat_avd: &Tensor, label_a: &Tensor) -> Result<(Tensor, Tensor)> {
    check_rank(feat_avd, 3, "feat_avd", "[A,V,D]")?;
    check_float(feat_avd, "feat_avd")?;
    let size = feat_avd.size();
    if size[2] == 0 {
        return Err(Error::shape(format!("feat_avd: expected at least one channel, got shape {size:?}")));
    }
    check_size(label_a, &[size[0]], "label_a")?;
    check_device(label_a, "label_a", feat_avd, "feat_avd")?;
    let label_n = label_a.f_to_kind(Kind::Int64)?.f_unsqueeze(1)?.f_expand([size[0], size[1]], false)?;
    Ok((feat_avd.f_reshape([size[0] * size[1], size[2]])?, label_n.f_reshape([size[0] * size[1]])?))
}
