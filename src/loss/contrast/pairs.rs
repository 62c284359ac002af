//! Positives of the contrastive kernel as sums over classes or positions.
//!
//! Suffixes: N anchors, M keys, D channels, C rows of the class table.

use super::class_table::ClassTable;
use super::inputs::{Masks, Positive};
use crate::error::Result;
use tch::{Kind, Tensor};

/// Who is positive to whom, reduced to sums so that no N x M mask exists.
pub struct Pairs {
    /// bool [N]: the anchor has a positive.
    pub counts_n: Tensor,
    /// [N,D]: mean of the anchor's positive keys.
    pub mean_nd: Tensor,
    /// [N,1]: one over the number of positives; zero where there is none.
    share_n1: Tensor,
    how: How,
}

enum How {
    Class { table: ClassTable, own: Option<(Tensor, Tensor)> },
    Index(Tensor),
}

impl Pairs {
    pub fn new(key_md: &Tensor, positive: &Positive, self_index_n: Option<&Tensor>, masks: &Masks) -> Result<Self> {
        let kind = key_md.f_kind()?;
        let options = (kind, key_md.device());
        let (sum_nd, number_n, how) = match positive {
            Positive::Class { anchor_n, key_m } => {
                let table = ClassTable::new(anchor_n, key_m, masks.key_m)?;
                let mut sum_cd = Tensor::f_zeros([table.rows, key_md.size()[1]], options)?;
                let sum_cd = sum_cd.f_index_add_(0, &table.key_m, key_md)?;
                let mut number_c = Tensor::f_zeros([table.rows], options)?;
                let number_c = number_c.f_index_add_(0, &table.key_m, &Tensor::f_ones([key_md.size()[0]], options)?)?;
                let mut sum_nd = sum_cd.f_index_select(0, &table.anchor_n)?;
                let mut number_n = number_c.f_index_select(0, &table.anchor_n)?;
                let own = match self_index_n {
                    Some(index_n) => {
                        let at_n = index_n.f_clamp_min(0)?;
                        let is_n = table.key_m.f_index_select(0, &at_n)?.f_eq_tensor(&table.anchor_n)?;
                        let is_n = is_n.f_logical_and(&index_n.f_ge(0)?)?.f_to_kind(kind)?;
                        let minus_n1 = is_n.f_neg()?.f_unsqueeze(1)?;
                        let _ = sum_nd.f_addcmul_(&key_md.f_index_select(0, &at_n)?, &minus_n1)?;
                        let _ = number_n.f_sub_(&is_n)?;
                        Some((at_n, is_n))
                    }
                    None => None,
                };
                (sum_nd, number_n, How::Class { table, own })
            }
            Positive::Index(index_n) => {
                let index_n = index_n.f_to_kind(Kind::Int64)?;
                let at_n = index_n.f_clamp_min(0)?;
                let mut has_n = index_n.f_ge(0)?;
                if let Some(self_n) = self_index_n {
                    has_n = has_n.f_logical_and(&index_n.f_ne_tensor(self_n)?)?;
                }
                if let Some(valid_m) = masks.key_m {
                    has_n = has_n.f_logical_and(&valid_m.f_index_select(0, &at_n)?)?;
                }
                let number_n = has_n.f_to_kind(kind)?;
                let sum_nd = key_md.f_index_select(0, &at_n)?.f_mul(&number_n.f_unsqueeze(1)?)?;
                (sum_nd, number_n, How::Index(at_n))
            }
        };
        let mut counts_n = number_n.f_gt(0)?;
        if let Some(valid_n) = masks.anchor_n {
            counts_n = counts_n.f_logical_and(valid_n)?;
        }
        let one_over_n = number_n.f_clamp_min(1.0)?.f_reciprocal()?;
        let mean_nd = sum_nd.f_mul(&one_over_n.f_unsqueeze(1)?)?;
        let share_n1 = one_over_n.f_mul(&counts_n.f_to_kind(kind)?)?.f_unsqueeze(1)?;
        Ok(Self { counts_n, mean_nd, share_n1, how })
    }

    /// Takes the pull of the positives off the keys' gradient: each anchor gives its share to each of its positives.
    pub fn subtract_from_keys(&self, anchor_nd: &Tensor, grad_md: &mut Tensor) -> Result<()> {
        let give_nd = anchor_nd.f_mul(&self.share_n1)?;
        match &self.how {
            How::Class { table, own } => {
                let mut sum_cd = Tensor::f_zeros([table.rows, give_nd.size()[1]], (give_nd.kind(), give_nd.device()))?;
                let sum_cd = sum_cd.f_index_add_(0, &table.anchor_n, &give_nd)?;
                let _ = grad_md.f_sub_(&sum_cd.f_index_select(0, &table.key_m)?)?;
                if let Some((at_n, is_n)) = own {
                    let _ = grad_md.f_index_add_(0, at_n, &give_nd.f_mul(&is_n.f_unsqueeze(1)?)?)?;
                }
            }
            How::Index(at_n) => {
                let _ = grad_md.f_index_add_(0, at_n, &give_nd.f_neg()?)?;
            }
        }
        Ok(())
    }
}
