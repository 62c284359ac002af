//! Checks of rank, size, dtype and device, and the legend of shape suffixes.
//!
//! Suffixes in names: B batch, C classes, D channels, H W size, N anchors, M keys, A groups, V views.
//! `feat_bdhw` is a tensor of rank 4 in that order.

use crate::error::{Error, Result};
use tch::{Kind, Tensor};

/// Sizes as `usize`.
pub fn sizes(tensor: &Tensor) -> Vec<usize> {
    tensor.size().iter().map(|&n| n as usize).collect()
}

/// `tensor` has `rank` dimensions. `layout` is the suffix shown to the user, such as "[B,C,H,W]".
pub fn check_rank(tensor: &Tensor, rank: usize, name: &str, layout: &str) -> Result<()> {
    if tensor.dim() == rank {
        return Ok(());
    }
    Err(Error::shape(format!("{name}: expected {layout}, got shape {:?}", tensor.size())))
}

/// `tensor` has exactly the sizes `expected`.
pub fn check_size(tensor: &Tensor, expected: &[i64], name: &str) -> Result<()> {
    if tensor.size() == expected {
        return Ok(());
    }
    Err(Error::shape(format!("{name}: expected shape {expected:?}, got {:?}", tensor.size())))
}

/// `tensor` is floating point.
pub fn check_float(tensor: &Tensor, name: &str) -> Result<()> {
    match tensor.f_kind()? {
        Kind::Float | Kind::Double | Kind::Half | Kind::BFloat16 => Ok(()),
        other => Err(Error::dtype(format!("{name}: expected a floating point tensor, got {other:?}"))),
    }
}

/// `tensor` holds integers (labels, indices).
pub fn check_integer(tensor: &Tensor, name: &str) -> Result<()> {
    match tensor.f_kind()? {
        Kind::Uint8 | Kind::Int8 | Kind::Int16 | Kind::Int | Kind::Int64 => Ok(()),
        other => Err(Error::dtype(format!("{name}: expected an integer tensor, got {other:?}"))),
    }
}

/// `number` is above 0 and finite (temperatures).
pub fn check_positive(number: f64, name: &str) -> Result<()> {
    if number > 0.0 && number.is_finite() {
        return Ok(());
    }
    Err(Error::value(format!("{name}: expected a positive finite number, got {number}")))
}

/// `tensor` lies on the device of `reference`.
pub fn check_device(tensor: &Tensor, name: &str, reference: &Tensor, reference_name: &str) -> Result<()> {
    if tensor.device() == reference.device() {
        return Ok(());
    }
    Err(Error::Device {
        name: name.into(),
        found: tensor.shallow_clone(),
        other_name: reference_name.into(),
        other: reference.shallow_clone(),
    })
}
