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
