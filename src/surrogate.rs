//! Values and gradients computed by hand, hung on the autograd graph.

use crate::error::Result;
use tch::{Kind, Tensor};

/// Dtype to compute in: float64 stays, everything else (float16, bfloat16, float32) is float32.
pub fn compute_kind(x: &Tensor) -> Result<Kind> {
    Ok(if x.f_kind()? == Kind::Double { Kind::Double } else { Kind::Float })
}

/// Whether a gradient will be asked for: `x` requires one and grad mode is on (a view made under no_grad does not).
pub fn wants_grad(x: &Tensor) -> Result<bool> {
    Ok(x.f_view_as(x)?.requires_grad())
}

/// `value`, with `gradient` as its derivative by `x` for each part. First order only: the gradients are constants.
///
/// `x - x.detach()` is zero, so the forward value is untouched whatever the magnitude of `x` and of its gradient.
pub fn attach(value: Tensor, parts: &[(&Tensor, Tensor)]) -> Result<Tensor> {
    let kind = value.f_kind()?;
    let mut total = value;
    for (x, gradient) in parts {
        let zero = x.f_sub(&x.f_detach()?)?;
        total = total.f_add(&zero.f_mul(gradient)?.f_sum(kind)?)?;
    }
    Ok(total)
}

/// As [`attach`] for one large `x`, in one pass over it and without a map of its size. The forward value is `value` exactly
/// where `x` is finite.
pub fn attach_dot(value: Tensor, x: &Tensor, gradient: &Tensor) -> Result<Tensor> {
    let kind = value.f_kind()?;
    let flat = x.f_to_kind(kind)?.f_reshape([-1])?;
    let along = flat.f_dot(&gradient.f_to_kind(kind)?.f_reshape([-1])?)?;
    Ok(value.f_add(&along.f_sub(&along.f_detach()?)?)?)
}
