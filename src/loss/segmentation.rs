//! Cross entropy and pixel accuracy of segmentation logits, with ignored pixels and pixel weights.

mod kernel;

use crate::choices;
use crate::error::{Error, Result};
use crate::host::slice::check_ids;
use crate::host::{fused, fused_without_grad};
use crate::resize::bilinear;
use crate::shape::{check_device, check_float, check_integer, check_rank, check_size};
use crate::surrogate::{attach, bounded, strays, wants_grad};
use tch::{no_grad, Kind, Tensor};

choices! {
    /// What the sum over pixels is divided by.
    pub enum Average {
        /// All pixels, ignored ones too, as in the released code: the published learning rates were tuned with it.
        All = "all",
        /// Labelled pixels only, so that the loss does not depend on the share of ignored ones.
        Valid = "valid",
    }
}

/// Logits [B,C,h,w] and label [B,H,W] (or [B,1,H,W]) agree; h, w are at most H, W. Returns the label as [B,H,W].
fn check(logits: &Tensor, label: &Tensor) -> Result<Tensor> {
    check_rank(logits, 4, "logits", "[B,C,H,W]")?;
    check_float(logits, "logits")?;
    check_integer(label, "label_bhw")?;
    check_device(label, "label_bhw", logits, "logits")?;
    let label = match label.size()[..] {
        [_, 1, _, _] => label.f_squeeze_dim(1)?,
        _ => label.f_detach()?,
    };
    check_rank(&label, 3, "label_bhw", "[B,H,W]")?;
    let (from, to) = (logits.size(), label.size());
    if from[0] != to[0] || from[2] > to[1] || from[3] > to[2] {
        return Err(Error::shape(format!(
            "logits {from:?} do not fit label_bhw {to:?}: expected the same batch, and a map that is not larger"
        )));
    }
    if logits.numel() == 0 || label.numel() == 0 {
        return Err(Error::shape(format!(
            "logits {from:?} and label_bhw {to:?}: expected at least one pixel and class"
        )));
    }
    Ok(label)
}

/// Bilinear, corners not aligned, to the label's size. Half precision is widened first.
fn resize(logits: &Tensor, label_bhw: &Tensor) -> Result<Tensor> {
    let logits = match logits.f_kind()? {
        Kind::Half | Kind::BFloat16 => logits.f_to_kind(Kind::Float)?,
        _ => logits.f_alias()?,
    };
    let size = &label_bhw.size()[1..];
    if logits.size()[2..] == *size {
        return Ok(logits);
    }
    bilinear(&bounded(&logits)?, size)
}

/// `sum` over the number of pixels that count (at least 1), without a visit to the host.
fn average_of(sum: &Tensor, label_bhw: &Tensor, ignore_index: i64, average: Average) -> Result<Tensor> {
    Ok(match average {
        Average::All => sum.f_div_scalar(label_bhw.numel() as f64)?,
        Average::Valid => {
            let count = label_bhw.f_ne(ignore_index)?.f_sum(Kind::Int64)?.f_clamp_min(1)?;
            sum.f_div(&count.f_to_kind(sum.f_kind()?)?)?
        }
    })
}

/// The same divisor as a number, for tensors on the host.
fn divisor_host(label_bhw: &Tensor, ignore_index: i64, average: Average) -> Result<f64> {
    Ok(match average {
        Average::All => label_bhw.numel() as f64,
        Average::Valid => label_bhw.f_ne(ignore_index)?.f_sum(Kind::Int64)?.f_int64_value(&[])?.max(1) as f64,
    })
}

fn on_host(logits: &Tensor, label_bhw: &Tensor, weight_bhw: Option<&Tensor>) -> Result<bool> {
    // float64 keeps libtorch's precision; a weight that is learnt needs its graph.
    let wide = logits.f_kind()? == Kind::Double || weight_bhw.is_some_and(|w| w.kind() == Kind::Double);
    Ok(!wide && fused(&[logits, label_bhw]) && weight_bhw.is_none_or(|w| fused_without_grad(&[w])))
}

/// Mean over pixels of -weight log softmax(logits)[label]; 0-dim, on the graph of `logits`.
///
/// `logits` [B,C,h,w] are resized to the label [B,H,W]; pixels of `ignore_index` count 0; `weight_bhw` multiplies each
/// pixel and does not change the divisor. With every pixel ignored the loss is a 0 that keeps the graph. Half precision
/// is computed and returned in f32. On the host an id outside the classes is an error that names it.
pub fn cross_entropy(
    logits: &Tensor,
    label_bhw: &Tensor,
    weight_bhw: Option<&Tensor>,
    ignore_index: i64,
    average: Average,
) -> Result<Tensor> {
    let label = prepare(logits, label_bhw, weight_bhw, ignore_index)?;
    if on_host(logits, &label, weight_bhw)? {
        return Ok(pair_on_host(logits, &label, weight_bhw, ignore_index, average, false)?.0);
    }
    loss_of(&resize(logits, &label)?, &label, weight_bhw, ignore_index, average)
}

/// Percentage of pixels whose largest logit is the label's; 0-dim, no gradient. `Average::All` counts ignored pixels as
/// wrong, as the released code's log does. Ties go to the lowest class.
pub fn accuracy(logits: &Tensor, label_bhw: &Tensor, ignore_index: i64, average: Average) -> Result<Tensor> {
    let label = prepare(logits, label_bhw, None, ignore_index)?;
    if on_host(logits, &label, None)? {
        return Ok(no_grad(|| pair_on_host(logits, &label, None, ignore_index, average, true))?.1);
    }
    accuracy_of(&resize(&logits.f_detach()?, &label)?, &label, ignore_index, average)
}

/// [`cross_entropy`] and [`accuracy`] of the same logits, which are resized once.
pub fn cross_entropy_and_accuracy(
    logits: &Tensor,
    label_bhw: &Tensor,
    weight_bhw: Option<&Tensor>,
    ignore_index: i64,
    average: Average,
) -> Result<(Tensor, Tensor)> {
    let label = prepare(logits, label_bhw, weight_bhw, ignore_index)?;
    if on_host(logits, &label, weight_bhw)? {
        return pair_on_host(logits, &label, weight_bhw, ignore_index, average, true);
    }
    let full = resize(logits, &label)?;
    let loss = loss_of(&full, &label, weight_bhw, ignore_index, average)?;
    Ok((loss, accuracy_of(&full.f_detach()?, &label, ignore_index, average)?))
}

/// Checks all arguments; the label as [B,H,W].
fn prepare(logits: &Tensor, label_bhw: &Tensor, weight_bhw: Option<&Tensor>, ignore_index: i64) -> Result<Tensor> {
    let label = check(logits, label_bhw)?;
    if let Some(weight) = weight_bhw {
        check_float(weight, "weight_bhw")?;
        check_size(weight, &label.size(), "weight_bhw")?;
        check_device(weight, "weight_bhw", logits, "logits")?;
    }
    if label.device() == tch::Device::Cpu {
        check_ids(&label, logits.size()[1], ignore_index, "label_bhw")?;
    }
    Ok(label)
}

/// Loss and, if asked for, accuracy in one sweep on the host.
fn pair_on_host(
    logits: &Tensor,
    label: &Tensor,
    weight_bhw: Option<&Tensor>,
    ignore_index: i64,
    average: Average,
    with_hits: bool,
) -> Result<(Tensor, Tensor)> {
    let scale = 1.0 / divisor_host(label, ignore_index, average)?;
    let sweep = kernel::sweep(logits, label, weight_bhw, ignore_index, scale, wants_grad(logits)?, with_hits)?;
    let scalar = |value: f64| -> Result<Tensor> { Ok(Tensor::f_from_slice(&[value as f32])?.f_squeeze()?) };
    let value = scalar(sweep.loss * scale)?;
    let loss = match sweep.gradient {
        Some(gradient) => {
            let loss = attach(value.shallow_clone(), &[(logits, gradient.shallow_clone())])?;
            // One number is asked instead of all logits: -inf among them shows in it.
            match strays(&loss)? && !strays(&value)? {
                true => attach(value, &[(&bounded(logits)?, gradient)])?,
                false => loss,
            }
        }
        None => value,
    };
    Ok((loss, scalar(100.0 * sweep.hits as f64 * scale)?))
}

fn loss_of(
    full: &Tensor,
    label: &Tensor,
    weight_bhw: Option<&Tensor>,
    ignore_index: i64,
    average: Average,
) -> Result<Tensor> {
    let mut loss = per_pixel(full, label, ignore_index)?;
    if let Some(weight) = weight_bhw {
        loss = loss.f_mul(&weight.f_to_kind(loss.f_kind()?)?)?;
    }
    average_of(&loss.f_sum(loss.f_kind()?)?, label, ignore_index, average)
}

/// -log softmax(full)[label] of each pixel [B,H,W], 0 where it is ignored.
///
/// A gather instead of libtorch's loss: that has no deterministic form on a GPU, and there an id outside the classes stops
/// the whole process. Here such a pixel is NaN, which the check for losses that are not finite finds.
pub(super) fn per_pixel(full: &Tensor, label: &Tensor, ignore_index: i64) -> Result<Tensor> {
    let place = Places::new(label, full.size()[1], ignore_index)?;
    let loss = full.f_log_softmax(1, full.f_kind()?)?.f_gather(1, &place.at.f_unsqueeze(1)?, false)?;
    Ok(loss.f_squeeze_dim(1)?.f_neg()?.f_masked_fill(&place.ignored, 0.0)?.f_masked_fill(&place.stray, f64::NAN)?)
}

/// Labels as places that can always be gathered from.
pub(super) struct Places {
    /// int64: the class, 0 where it is none.
    pub at: Tensor,
    /// bool: the ignored id, and any other id that is no class.
    pub ignored: Tensor,
    pub stray: Tensor,
}

impl Places {
    pub fn new(label: &Tensor, classes: i64, ignore_index: i64) -> Result<Self> {
        let id = label.f_to_kind(Kind::Int64)?;
        let ignored = id.f_eq(ignore_index)?;
        let inside = id.f_ge(0)?.f_logical_and(&id.f_lt(classes)?)?;
        let at = id.f_masked_fill(&inside.f_logical_not()?.f_logical_or(&ignored)?, 0)?;
        Ok(Self { at, stray: inside.f_logical_or(&ignored)?.f_logical_not()?, ignored })
    }
}

fn accuracy_of(full: &Tensor, label: &Tensor, ignore_index: i64, average: Average) -> Result<Tensor> {
    let hit = full.f_argmax(1, false)?.f_eq_tensor(label)?.f_logical_and(&label.f_ne(ignore_index)?)?;
    let hits = hit.f_sum(Kind::Int64)?.f_to_kind(full.f_kind()?)?.f_mul_scalar(100.0)?;
    average_of(&hits, label, ignore_index, average)
}
