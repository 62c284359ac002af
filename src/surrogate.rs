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
/// `x - x.detach()` is zero, so the forward value is untouched whatever the magnitude of `x` and of its gradient, as long as
/// `x` is finite; [`bounded`] makes it so.
pub fn attach(value: Tensor, parts: &[(&Tensor, Tensor)]) -> Result<Tensor> {
    let kind = value.f_kind()?;
    let mut total = value;
    for (x, gradient) in parts {
        let zero = x.f_sub(&x.f_detach()?)?;
        total = total.f_add(&zero.f_mul(gradient)?.f_sum(kind)?)?;
    }
    Ok(total)
}

/// `x` with a very low number in place of -inf, which a network gives as the logit of a class that cannot be: 0 times it is
/// 0 then, and means of it are finite in float16 and bfloat16 too. No gradient flows back to such a place.
pub fn bounded(x: &Tensor) -> Result<Tensor> {
    Ok(x.f_clamp_min(match x.f_kind()? {
        Kind::Half => -65504.0,
        Kind::Double => -1e308,
        _ => -3e38,
    })?)
}

/// Whether a number on the host is NaN or infinite.
pub fn strays(value: &Tensor) -> Result<bool> {
    Ok(!value.f_double_value(&[])?.is_finite())
}

/// As [`attach`] for one large `x` on the host, in one pass over it and without a map of its size. -inf in `x` is passed
/// over.
pub fn attach_dot(value: Tensor, x: &Tensor, gradient: &Tensor) -> Result<Tensor> {
    let kind = value.f_kind()?;
    let gradient = gradient.f_to_kind(kind)?.f_reshape([-1])?;
    let along = |x: &Tensor| -> Result<Tensor> { Ok(x.f_to_kind(kind)?.f_reshape([-1])?.f_dot(&gradient)?) };
    let mut along_x = along(x)?;
    if strays(&along_x)? {
        along_x = along(&bounded(x)?)?;
    }
    let along = along_x;
    Ok(value.f_add(&along.f_sub(&along.f_detach()?)?)?)
}
