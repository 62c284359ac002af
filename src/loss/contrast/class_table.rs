//! Arbitrary class ids of anchors and keys as small row numbers, without asking the device for a value.
//!
//! Suffixes: N anchors, M keys.

use crate::error::Result;
use tch::{Device, Kind, Tensor};

/// Row number of the class of every anchor and key. Row `rows - 1` belongs to no class: masked keys go there.
pub struct ClassTable {
    pub anchor_n: Tensor,
    pub key_m: Tensor,
    pub rows: i64,
}

impl ClassTable {
    pub fn new(anchor_n: &Tensor, key_m: &Tensor, key_valid_m: Option<&Tensor>) -> Result<Self> {
        let n = anchor_n.size()[0];
        let m = key_m.size()[0];
        let all = Tensor::f_cat(&[anchor_n.f_to_kind(Kind::Int64)?, key_m.f_to_kind(Kind::Int64)?], 0)?;
        if n + m == 0 {
            return Ok(Self { anchor_n: all.f_narrow(0, 0, 0)?, key_m: all.f_narrow(0, 0, 0)?, rows: 1 });
        }
        let (sorted, order) = all.f_sort(0, false)?;
        // A step up between neighbours opens a new class; their running count is the row number.
        let step = sorted.f_narrow(0, 1, n + m - 1)?.f_ne_tensor(&sorted.f_narrow(0, 0, n + m - 1)?)?;
        let first = Tensor::f_zeros([1], (Kind::Int64, all.device()))?;
        let id = Tensor::f_cat(&[first, step.f_cumsum(0, Kind::Int64)?], 0)?;
        // On the CPU the number of classes is free to read; elsewhere its bound keeps the host from waiting.
        let classes = if all.device() == Device::Cpu { i64::try_from(id.f_get(n + m - 1)?)? + 1 } else { n + m };
        let mut row = Tensor::f_zeros_like(&all)?;
        let row = row.f_scatter_(0, &order, &id)?;
        let key_m = row.f_narrow(0, n, m)?;
        let key_m = match key_valid_m {
            Some(valid_m) => key_m.f_masked_fill(&valid_m.f_logical_not()?, classes)?,
            None => key_m,
        };
        Ok(Self { anchor_n: row.f_narrow(0, 0, n)?, key_m, rows: classes + 1 })
    }
}
