//! Rows of a feature matrix scaled to length one, and the way back for their gradient.
//!
//! Suffixes: N rows, D channels.

use crate::error::Result;
use crate::surrogate::compute_kind;
use tch::{Kind, Tensor};

/// Rows of a feature matrix scaled to length one, and what is needed to send a gradient back through the scaling.
pub struct UnitRows {
    /// [N,D] in the compute dtype, detached and contiguous; a zero row stays zero.
    pub rows_nd: Tensor,
    peak_n1: Tensor,
    norm_n1: Tensor,
    dead_n1: Tensor,
}

impl UnitRows {
    /// Divides by the largest magnitude of the row first, so that squares neither overflow nor vanish.
    pub fn new(x_nd: &Tensor) -> Result<Self> {
        let kind = compute_kind(x_nd)?;
        // Below this a row counts as zero: its gradient (about 1/length) would leave the range of the dtype.
        let tiny = if kind == Kind::Double { 1e-150 } else { 1e-30 };
        let x_nd = x_nd.f_detach()?.f_to_kind(kind)?.f_contiguous()?;
        let peak_n1 = x_nd.f_abs()?.f_amax([1i64], true)?;
        let dead_n1 = peak_n1.f_lt(tiny)?;
        let peak_n1 = peak_n1.f_masked_fill(&dead_n1, 1.0)?;
        let mut rows_nd = x_nd.f_div(&peak_n1)?.f_masked_fill_(&dead_n1, 0.0)?;
        let norm_n1 = rows_nd.f_square()?.f_sum_dim_intlist(1i64, true, kind)?.f_sqrt()?;
        let norm_n1 = norm_n1.f_masked_fill(&dead_n1, 1.0)?;
        let rows_nd = rows_nd.f_div_(&norm_n1)?;
        Ok(Self { rows_nd, peak_n1, norm_n1, dead_n1 })
    }

    /// Gradient by the unscaled rows: `(g - e (e.g)) / |x|`; zero for zero rows.
    pub fn backward(&self, grad_nd: &Tensor) -> Result<Tensor> {
        let kind = grad_nd.f_kind()?;
        let along_n1 = self.rows_nd.f_mul(grad_nd)?.f_sum_dim_intlist(1i64, true, kind)?;
        let mut across_nd = grad_nd.f_addcmul(&self.rows_nd, &along_n1.f_neg()?)?;
        Ok(across_nd.f_div_(&self.norm_n1)?.f_div_(&self.peak_n1)?.f_masked_fill_(&self.dead_n1, 0.0)?)
    }
}
