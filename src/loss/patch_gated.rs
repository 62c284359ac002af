//! Patch contrast as the research code computes it: directional, gated by confidence, against a bank of features.
//!
//! For direction 1 (direction 2 swaps the roles), per position i with bank entries k of another pseudo-label:
//!   p_i = f1_i . f2_i / tau,   t_ik = f1_i . bank_k / tau,   m_i = max(p_i, t_ik of the first chunk of the bank)
//!   r_i = exp(p_i - m_i) / (exp(p_i - m_i) + sum_k exp(t_ik - m_i) + eps)
//!   loss = sum_i w_i * -log(r_i + eps) / (sum_i w_i + 1e-12),   w_i = [conf2_i > threshold and conf1_i < conf2_i]
//! The other patch and the bank get no gradient. m_i covers only the first chunk (entries of the same label included),
//! and eps = 1e-8 is added after the shift, so the value depends slightly on m_i: kept, to reproduce recorded numbers.
//! Features are taken as they are (the research code normalises them before).
//!
//! Suffixes: N positions, M bank entries, D channels.

use super::contrast::blocks;
use crate::error::{Error, Result};
use crate::shape::{check_device, check_float, check_positive, check_rank, check_size};
use crate::surrogate::{attach, compute_kind, wants_grad};
use tch::{Device, Kind, Tensor};

const EPS: f64 = 1e-8;
/// Scores held at a time: 16 MB in float32, which the caches of a server hold.
const TILE: i64 = 1 << 22;

/// Settings of [`patch_contrast_gated`]; in brackets the values of the research code.
#[derive(Clone, Debug)]
pub struct Gate {
    /// [0.1]
    pub temperature: f64,
    /// The other patch must be at least this sure of its pseudo-label [0.9].
    pub confidence: f64,
    /// Bank entries of the first chunk, which sets the shift of the exponentials [8000].
    pub chunk: i64,
}

/// One patch at the overlap positions.
pub struct View<'a> {
    pub feat_nd: &'a Tensor,
    pub label_n: &'a Tensor,
    pub conf_n: &'a Tensor,
}

/// The losses of the two directions, each differentiable by its own patch.
pub fn patch_contrast_gated(
    one: View,
    two: View,
    bank_md: &Tensor,
    bank_label_m: &Tensor,
    gate: &Gate,
) -> Result<(Tensor, Tensor)> {
    check_positive(gate.temperature, "temperature")?;
    if gate.chunk < 1 {
        return Err(Error::value(format!("chunk: expected a positive number of bank entries, got {}", gate.chunk)));
    }
    check_float(one.feat_nd, "feat1_nd")?;
    check_rank(one.feat_nd, 2, "feat1_nd", "[N,D]")?;
    let (n, d) = (one.feat_nd.size()[0], one.feat_nd.size()[1]);
    check_rank(bank_md, 2, "bank_md", "[M,D]")?;
    let m = bank_md.size()[0];
    for (x, size, name) in [
        (two.feat_nd, vec![n, d], "feat2_nd"),
        (bank_md, vec![m, d], "bank_md"),
        (bank_label_m, vec![m], "bank_label_m"),
        (one.label_n, vec![n], "label1_n"),
        (two.label_n, vec![n], "label2_n"),
        (one.conf_n, vec![n], "conf1_n"),
        (two.conf_n, vec![n], "conf2_n"),
    ] {
        check_size(x, &size, name)?;
        check_device(x, name, one.feat_nd, "feat1_nd")?;
        if name == "feat2_nd" || name == "bank_md" {
            check_float(x, name)?;
        }
    }
    if m == 0 {
        return Err(Error::shape("bank_md: expected at least one feature, got none"));
    }
    let first = direction(&one, &two, bank_md, bank_label_m, gate)?;
    let second = direction(&two, &one, bank_md, bank_label_m, gate)?;
    Ok((first, second))
}

fn direction(own: &View, other: &View, bank_md: &Tensor, bank_label_m: &Tensor, gate: &Gate) -> Result<Tensor> {
    let kind = compute_kind(own.feat_nd)?;
    let sure_n = other.conf_n.f_gt(gate.confidence)?.f_logical_and(&own.conf_n.f_lt_tensor(other.conf_n)?)?;
    // On the CPU the positions that count are cheap to list, and the others cost nothing then; an accelerator would have
    // to wait for their number.
    let counted_n = if sure_n.device() == Device::Cpu { Some(sure_n.f_nonzero()?.f_squeeze_dim(1)?) } else { None };
    let pick = |x: &Tensor| match &counted_n {
        Some(index) => x.f_index_select(0, index),
        None => Ok(x.shallow_clone()),
    };
    let plain = |x: &Tensor| -> Result<Tensor> { Ok(x.f_detach()?.f_to_kind(kind)?) };
    let (f_nd, g_nd, bank_md) = (pick(&plain(own.feat_nd)?)?, pick(&plain(other.feat_nd)?)?, plain(bank_md)?);
    let label_n = pick(own.label_n)?;
    let n = f_nd.size()[0];
    let weight_n1 = pick(&sure_n)?.f_to_kind(kind)?.f_unsqueeze(1)?;
    let weight_n1 = weight_n1.f_div(&weight_n1.f_sum(kind)?.f_add_scalar(1e-12)?)?;

    let sharp_nd = f_nd.f_div_scalar(gate.temperature)?;
    let positive_n1 = sharp_nd.f_mul(&g_nd)?.f_sum_dim_intlist(1i64, true, kind)?;
    let want = wants_grad(own.feat_nd)?;
    let m = bank_md.size()[0];
    let first = gate.chunk.min(m);
    let top_n1 = positive_n1.f_empty_like()?;
    let top_at_n1 = Tensor::f_empty([n, 1], (Kind::Int64, f_nd.device()))?;
    let sum_n1 = positive_n1.f_empty_like()?;
    // sum over k of exp(t_ik - m_i) bank_k, for the gradient
    let pull_nd = f_nd.f_empty_like()?;
    let rows = (TILE / m).clamp(1, n.max(1));
    let tile = Tensor::f_empty([rows * m], (kind, f_nd.device()))?;
    for (i, r) in blocks(n, rows) {
        let at = |x: &Tensor| x.f_narrow(0, i, r);
        let out = tile.f_narrow(0, 0, r * m)?.f_view([r, m])?;
        let mut score = at(&sharp_nd)?.f_mm_out(&out, &bank_md.f_tr()?)?;
        let (highest_r1, at_r1) = score.f_narrow(1, 0, first)?.f_max_dim(1, true)?;
        let top_r1 = highest_r1.f_maximum(&at(&positive_n1)?)?;
        let same = at(&label_n)?.f_unsqueeze(1)?.f_eq_tensor(bank_label_m)?;
        let mut score = score.f_sub_(&top_r1)?.f_exp_()?;
        let score = score.f_masked_fill_(&same, 0.0)?;
        at(&top_n1)?.f_copy_(&top_r1)?;
        at(&top_at_n1)?.f_copy_(&at_r1)?;
        at(&sum_n1)?.f_copy_(&score.f_sum_dim_intlist(1i64, true, kind)?)?;
        if want {
            let _ = score.f_mm_out(&at(&pull_nd)?, &bank_md)?;
        }
    }
    let e_n1 = positive_n1.f_sub(&top_n1)?.f_exp()?;
    let whole_n1 = e_n1.f_add(&sum_n1)?.f_add_scalar(EPS)?;
    let ratio_n1 = e_n1.f_div(&whole_n1)?.f_add_scalar(EPS)?;
    let value = ratio_n1.f_log()?.f_neg()?.f_mul(&weight_n1)?.f_sum(kind)?;
    if !want {
        return attach(value, &[]);
    }

    // dr/dE = (S + eps)/W^2, dr/dS = -E/W^2, and through the shift m: dr/dm = -E eps/W^2 (W the denominator).
    let outer_n1 = weight_n1.f_div(&ratio_n1)?.f_neg()?.f_div(&whole_n1.f_square()?)?;
    let by_positive_n1 = sum_n1.f_add_scalar(EPS)?.f_mul(&e_n1)?.f_mul(&outer_n1)?;
    let by_sum_n1 = e_n1.f_neg()?.f_mul(&outer_n1)?;
    let by_top_n1 = e_n1.f_mul(&outer_n1)?.f_mul_scalar(-EPS)?;
    let top_is_positive = top_n1.f_eq_tensor(&positive_n1)?.f_to_kind(kind)?;
    let mut grad_nd = g_nd.f_mul(&by_positive_n1.f_add(&by_top_n1.f_mul(&top_is_positive)?)?)?;
    let mut grad_nd = grad_nd.f_addcmul_(&pull_nd, &by_sum_n1)?;
    let top_is_bank = top_is_positive.f_rsub_scalar(1.0)?;
    let top_key_nd = bank_md.f_index_select(0, &top_at_n1.f_squeeze_dim(1)?)?;
    let grad_nd = grad_nd.f_addcmul_(&top_key_nd, &by_top_n1.f_mul(&top_is_bank)?)?.f_div_scalar_(gate.temperature)?;
    let grad_nd = match &counted_n {
        Some(index) => Tensor::f_zeros(own.feat_nd.size(), (kind, f_nd.device()))?.f_index_copy(0, index, &grad_nd)?,
        None => grad_nd,
    };
    attach(value, &[(own.feat_nd, grad_nd)])
}
