//! Negatives of other classes only: which keys leave an anchor's denominator.
//!
//! Suffixes: N anchors, M keys.

use super::inputs::{Masks, Positive};
use crate::error::{Error, Result};
use tch::{Kind, Tensor};

/// Classes of anchors and keys, and each anchor's positive, which stays whatever its class.
pub struct Others {
    anchor_n: Tensor,
    key_m: Tensor,
    positive_n: Tensor,
}

impl Others {
    /// None where all keys are negatives.
    pub fn new(positive: &Positive, masks: &Masks) -> Result<Option<Self>> {
        let Some((anchor_n, key_m)) = masks.class_nm else { return Ok(None) };
        let Positive::Index(index_n) = positive else {
            return Err(Error::value("class_nm: positives by class would lose their own class; give positions"));
        };
        let (anchor_n, key_m) = (anchor_n.shallow_clone(), key_m.shallow_clone());
        Ok(Some(Self { anchor_n, key_m, positive_n: index_n.f_to_kind(Kind::Int64)? }))
    }

    /// bool [rows, columns] for a block of scores: keys of the anchor's class other than its positive. Both ranges are
    /// (start, length).
    pub fn left_out(&self, (i, rows): (i64, i64), (j, columns): (i64, i64)) -> Result<Tensor> {
        let column = |x: &Tensor| -> Result<Tensor> { Ok(x.f_narrow(0, i, rows)?.f_unsqueeze(1)?) };
        let same = column(&self.anchor_n)?.f_eq_tensor(&self.key_m.f_narrow(0, j, columns)?)?;
        let key = Tensor::f_arange_start(j, j + columns, (Kind::Int64, same.device()))?;
        Ok(same.f_logical_and(&column(&self.positive_n)?.f_ne_tensor(&key)?)?)
    }
}
