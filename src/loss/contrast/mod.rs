//! The one contrastive kernel of the product (PiPa, equations for L_pixel and L_patch).
//!
//!   loss = mean over anchors i with a positive of
//!          [ log sum over keys k of exp(cos(a_i, k_k) / tau)  -  mean over positives p of cos(a_i, k_p) / tau ]
//!
//! Scores exist one tile at a time: a running maximum and sum give the log-sum-exp, and the gradient is made from the
//! same tile (or from recomputed tiles when the keys need several). Memory is O(N D + tile), never O(N M).
//!
//! Suffixes: N anchors, M keys, D channels. Rows of `e` are features of length one.

mod class_table;
mod inputs;
mod others;
mod pairs;
mod rows;
mod scores;

pub use inputs::{Anchors, Masks, Positive};
pub(super) use scores::{blocks, tile_for};

use crate::error::{Error, Result};
use crate::surrogate::{attach, compute_kind, wants_grad};
use inputs::check;
use others::Others;
use pairs::Pairs;
use rows::UnitRows;
use scores::Scores;
use tch::{Kind, Tensor};

/// Contrastive loss of `anchors` against `key_md`; a 0-dim tensor on the graph of both (first-order gradients).
///
/// `self_index_n`: for each anchor the key that is the anchor itself, which is neither in its denominator nor its
/// positive (negative: none). Without any anchor that has a positive the loss is a zero that keeps the graph.
/// float16 and bfloat16 compute in float32, float64 in float64; autocast does not reach inside.
pub fn contrast(
    anchors: Anchors,
    key_md: &Tensor,
    positive: Positive,
    self_index_n: Option<&Tensor>,
    temperature: f64,
    masks: Masks,
) -> Result<Tensor> {
    check(&anchors, key_md, &positive, self_index_n, temperature, &masks)?;
    let want_key = wants_grad(key_md)?;
    let (own, want_anchor) = match anchors {
        Anchors::Own(x) => (Some(x), wants_grad(x)?),
        Anchors::Keys(_) => (None, want_key),
    };
    if anchors.count(key_md) == 0 || key_md.size()[0] == 0 {
        let zero = Tensor::f_zeros([] as [i64; 0], (compute_kind(key_md)?, key_md.device()))?;
        let inputs = [Some(key_md), own].into_iter().flatten();
        return attach(zero, &inputs.map(|x| Ok((x, x.f_zeros_like()?))).collect::<Result<Vec<_>>>()?);
    }

    let key = UnitRows::new(key_md)?;
    let own = own.map(|x| Ok::<_, Error>((x, UnitRows::new(x)?))).transpose()?;
    let rows = own.as_ref().map_or(&key.rows_nd, |(_, unit)| &unit.rows_nd);
    let anchor_nd = match anchors {
        Anchors::Keys(Some(at)) => rows.f_index_select(0, at)?,
        _ => rows.shallow_clone(),
    };
    let self_index_n = self_index_n.map(|index| index.f_to_kind(Kind::Int64)).transpose()?;
    let pairs = Pairs::new(&key.rows_nd, &positive, self_index_n.as_ref(), &masks)?;
    let others = Others::new(&positive, &masks)?;
    let scores = Scores::new(&anchor_nd, &key.rows_nd, self_index_n, others, temperature, &masks)?;
    let sweep = scores.sweep(&pairs.counts_n, want_anchor, want_key)?;

    let kind = anchor_nd.f_kind()?;
    let positive_n = anchor_nd.f_mul(&pairs.mean_nd)?.f_sum_dim_intlist(1i64, false, kind)?;
    let each_n = sweep.log_sum_n.f_sub(&positive_n.f_div_scalar(temperature)?)?;
    let counted = pairs.counts_n.f_sum(kind)?.f_clamp_min(1.0)?;
    let none = Tensor::f_zeros_like(&each_n)?;
    let value = each_n.f_where_self(&pairs.counts_n, &none)?.f_sum(kind)?.f_div(&counted)?;

    let scale = counted.f_mul_scalar(temperature)?.f_reciprocal()?;
    let mut parts = Vec::new();
    let mut grad_key_md = sweep.key_md;
    if let Some(grad_md) = grad_key_md.as_mut() {
        pairs.subtract_from_keys(&anchor_nd, grad_md)?;
    }
    if let Some(mut grad_nd) = sweep.anchor_nd {
        let keep_n1 = pairs.counts_n.f_to_kind(kind)?.f_unsqueeze(1)?;
        let mut grad_nd = grad_nd.f_addcmul_(&pairs.mean_nd, &keep_n1.f_neg()?)?;
        if let Some((x, unit)) = &own {
            parts.push((*x, unit.backward(&grad_nd.f_mul_(&scale)?)?));
        } else if let Some(grad_md) = grad_key_md.as_mut() {
            let _ = match anchors {
                Anchors::Keys(Some(at)) => grad_md.f_index_add_(0, at, &grad_nd)?,
                _ => grad_md.f_add_(&grad_nd)?,
            };
        }
    }
    if let Some(mut grad_md) = grad_key_md {
        parts.push((key_md, key.backward(&grad_md.f_mul_(&scale)?)?));
    }
    attach(value, &parts)
}
