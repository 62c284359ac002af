//! The one contrastive kernel of the product (PiPa, equations for L_pixel and L_patch).
//!
//!   loss = mean over anchors i with a positive of
//!          [ log sum over keys k of exp(cos(a_i, k_k) / tau)  -  mean over positives p of cos(a_i, k_p) / tau ]
//!
//! Scores exist one tile at a time: a running maximum and sum give the log-sum-exp, and the gradient is made from the
//! same tile (or from recomputed tiles when the keys need several). Memory is O(N D + tile), never O(N M).
//!
//! Suffixes: N anchors, M keys, D channels. Rows of `e` are features of length one.

use super::pairs::Pairs;
use super::scores::Scores;
use super::surrogate::{attach, compute_kind, wants_grad, UnitRows};
use crate::error::{Error, Result};
use crate::shape::{check_device, check_float, check_integer, check_rank, check_size};
use tch::{Device, Kind, Tensor};

/// What makes a key a positive of an anchor.
pub enum Positive<'a> {
    /// Equal class ids (any integers; every id is a class, so the caller removes ignored pixels).
    Class { anchor_n: &'a Tensor, key_m: &'a Tensor },
    /// One key per anchor by position; a negative index means "no positive", and such an anchor does not count.
    Index(&'a Tensor),
}

/// Optional restrictions, for callers whose shapes must not depend on values (accelerators).
#[derive(Default, Clone, Copy)]
pub struct Masks<'a> {
    /// bool [N]: anchors that count.
    pub anchor_n: Option<&'a Tensor>,
    /// bool [M]: keys that exist, for denominators and as positives.
    pub key_m: Option<&'a Tensor>,
    /// Rows and columns of the largest score tile; None: chosen by device.
    pub tile: Option<(i64, i64)>,
}

/// Contrastive loss of `anchor_nd` against `key_md`; a 0-dim tensor on the graph of both (first-order gradients).
///
/// `self_index_n`: for each anchor the key that is the anchor itself, which is neither in its denominator nor its
/// positive (negative: none). Without any anchor that has a positive the loss is a zero that keeps the graph.
/// float16 and bfloat16 compute in float32, float64 in float64; autocast does not reach inside.
pub fn contrast(
    anchor_nd: &Tensor,
    key_md: &Tensor,
    positive: Positive,
    self_index_n: Option<&Tensor>,
    temperature: f64,
) -> Result<Tensor> {
    contrast_masked(anchor_nd, key_md, positive, self_index_n, temperature, Masks::default())
}

/// [`contrast`] with masks. Passing one tensor as anchors and keys (the same reference) halves the memory.
pub fn contrast_masked(
    anchor_nd: &Tensor,
    key_md: &Tensor,
    positive: Positive,
    self_index_n: Option<&Tensor>,
    temperature: f64,
    masks: Masks,
) -> Result<Tensor> {
    let anchors = if std::ptr::eq(anchor_nd, key_md) { Anchors::Keys(None) } else { Anchors::Own(anchor_nd) };
    contrast_of(anchors, key_md, positive, self_index_n, temperature, masks)
}

/// [`contrast`] of the keys at the positions `anchor_n` (int64 [N], none twice) with all other keys. `positive_n`: position
/// of each anchor's positive.
pub fn contrast_within(key_md: &Tensor, anchor_n: &Tensor, positive_n: &Tensor, temperature: f64) -> Result<Tensor> {
    let positive = Positive::Index(positive_n);
    contrast_of(Anchors::Keys(Some(anchor_n)), key_md, positive, Some(anchor_n), temperature, Masks::default())
}

/// Where the anchors come from. Those that are keys are scaled to length one with them.
enum Anchors<'a> {
    Own(&'a Tensor),
    /// All keys, or those at the given positions.
    Keys(Option<&'a Tensor>),
}

impl Anchors<'_> {
    fn count(&self, key_md: &Tensor) -> i64 {
        let rows = match self {
            Anchors::Own(x) | Anchors::Keys(Some(x)) => x,
            Anchors::Keys(None) => key_md,
        };
        rows.size().first().copied().unwrap_or(0)
    }
}

fn contrast_of(
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
    let scores = Scores::new(&anchor_nd, &key.rows_nd, self_index_n, temperature, &masks)?;
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

fn check(
    anchors: &Anchors,
    key_md: &Tensor,
    positive: &Positive,
    self_index_n: Option<&Tensor>,
    temperature: f64,
    masks: &Masks,
) -> Result<()> {
    check_temperature(temperature)?;
    let own = match anchors {
        Anchors::Own(anchor_nd) => *anchor_nd,
        Anchors::Keys(_) => key_md,
    };
    for (x, name) in [(own, "anchor_nd"), (key_md, "key_md")] {
        check_rank(x, 2, name, if name == "key_md" { "[M,D]" } else { "[N,D]" })?;
        check_float(x, name)?;
    }
    check_device(key_md, "key_md", own, "anchor_nd")?;
    let (m, d) = (key_md.size()[0], own.size()[1]);
    if key_md.size()[1] != d || d == 0 {
        return Err(Error::shape(format!(
            "key_md: expected [M,{d}] to match anchor_nd {:?} (at least one channel), got {:?}",
            own.size(),
            key_md.size()
        )));
    }
    if own.f_kind()? != key_md.f_kind()? {
        return Err(Error::dtype(format!(
            "key_md: expected the dtype of anchor_nd ({:?}), got {:?}",
            own.kind(),
            key_md.kind()
        )));
    }
    if let Some((rows, columns)) = masks.tile {
        if rows < 1 || columns < 1 {
            return Err(Error::value(format!("tile: expected two positive sizes, got ({rows}, {columns})")));
        }
    }
    let n = anchors.count(key_md);
    let mut integers: Vec<(&Tensor, &str, i64, bool)> = match positive {
        Positive::Class { anchor_n, key_m } => {
            vec![(*anchor_n, "anchor_label_n", n, false), (*key_m, "key_label_m", m, false)]
        }
        Positive::Index(index_n) => vec![(*index_n, "positive index_n", n, true)],
    };
    integers.extend(self_index_n.map(|index_n| (index_n, "self_index_n", n, true)));
    for (tensor, name, length, is_index) in integers {
        check_integer(tensor, name)?;
        check_size(tensor, &[length], name)?;
        check_device(tensor, name, own, "anchor_nd")?;
        // Reading the largest index is free on the CPU; accelerators check indices themselves when they use them.
        if is_index && length > 0 && tensor.device() == Device::Cpu {
            let largest = i64::try_from(tensor.f_max()?.f_to_kind(Kind::Int64)?)?;
            if largest >= m {
                return Err(Error::value(format!("{name}: expected indices below {m} (keys), got {largest}")));
            }
        }
    }
    Ok(())
}

/// Temperatures are positive and finite.
pub fn check_temperature(temperature: f64) -> Result<()> {
    if temperature.is_finite() && temperature > 0.0 {
        return Ok(());
    }
    Err(Error::value(format!("temperature: expected a positive finite number, got {temperature}")))
}
