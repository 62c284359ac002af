//! Memory of embeddings across iterations: the newest `capacity` features of every class, as keys without gradient.
//!
//! Suffixes: C classes, K capacity, S = C K slots, D channels, N new features.

use crate::error::{Error, Result};
use crate::host::slice::check_ids;
use crate::shape::{check_device, check_rank, check_size};
use tch::{Device, Kind, Tensor};

/// A ring per class. Its three tensors are its whole state; `push` changes them in place.
pub struct MemoryBank {
    /// [S+1,D] float32 or float64; the last row takes what is not kept, so that shapes never depend on values.
    pub feat_sd: Tensor,
    /// int64 [S]: class of a filled slot, -1 for an empty one.
    pub label_s: Tensor,
    /// int64 [C]: slot of each ring that is written next.
    pub next_c: Tensor,
    capacity: i64,
}

impl MemoryBank {
    pub fn new(classes: i64, capacity: i64, channels: i64, kind: Kind, device: Device) -> Result<Self> {
        if classes < 1 || capacity < 1 || channels < 1 {
            return Err(Error::value(format!(
                "memory bank: expected positive classes, capacity and channels, got {classes}, {capacity}, {channels}"
            )));
        }
        Ok(Self {
            feat_sd: Tensor::f_zeros([classes * capacity + 1, channels], (kind, device))?,
            label_s: Tensor::f_full([classes * capacity], -1, (Kind::Int64, device))?,
            next_c: Tensor::f_zeros([classes], (Kind::Int64, device))?,
            capacity,
        })
    }

    /// A bank on the given tensors, which `push` changes in place: their owner keeps the memory (see [`Self::duplicate`]).
    pub fn from_state(feat_sd: Tensor, label_s: Tensor, next_c: Tensor) -> Result<Self> {
        check_rank(&feat_sd, 2, "memory bank features", "[S+1,D]")?;
        check_rank(&next_c, 1, "memory bank positions", "[C]")?;
        let (slots, classes) = (feat_sd.size()[0] - 1, next_c.size()[0]);
        check_size(&label_s, &[slots], "memory bank labels")?;
        if classes < 1 || slots < 1 || slots % classes != 0 {
            return Err(Error::shape(format!("memory bank: {slots} slots do not divide among {classes} classes")));
        }
        Ok(Self { feat_sd, label_s, next_c, capacity: slots / classes })
    }

    /// The same bank in memory of its own.
    pub fn duplicate(&self) -> Result<Self> {
        Ok(Self {
            feat_sd: self.feat_sd.f_detach_copy()?,
            label_s: self.label_s.f_detach_copy()?,
            next_c: self.next_c.f_detach_copy()?,
            capacity: self.capacity,
        })
    }

    /// Features [S,D], labels [S] and filled [S] of all slots.
    pub fn keys(&self) -> Result<(Tensor, Tensor, Tensor)> {
        let slots = self.label_s.size()[0];
        Ok((self.feat_sd.f_narrow(0, 0, slots)?, self.label_s.f_alias_copy()?, self.label_s.f_ge(0)?))
    }

    /// Whether an embedding [B,D,h,w] and, on the host, its labels can be kept in this bank.
    pub fn check(&self, embedding_bdhw: &Tensor, label_bhw: &Tensor, ignore_index: i64) -> Result<()> {
        let (found, channels) = (embedding_bdhw.size()[1], self.feat_sd.size()[1]);
        if found != channels {
            return Err(Error::shape(format!(
                "embedding_bdhw: expected the {channels} channels of the memory bank, got {found}"
            )));
        }
        match label_bhw.device() {
            Device::Cpu => check_ids(label_bhw, self.next_c.size()[0], ignore_index, "label_bhw"),
            _ => Ok(()),
        }
    }

    /// Stores the valid ones of `feat_nd` [N,D] under their labels; labels outside 0..C are not kept.
    pub fn push(&mut self, feat_nd: &Tensor, label_n: &Tensor, valid_n: &Tensor) -> Result<()> {
        check_device(feat_nd, "embedding", &self.feat_sd, "memory bank")?;
        let (n, d) = (label_n.size()[0], self.feat_sd.size()[1]);
        check_size(feat_nd, &[n, d], "memory bank: new features")?;
        if n == 0 {
            return Ok(());
        }
        let (slots, classes) = (self.label_s.size()[0], self.next_c.size()[0]);
        let class_c = Tensor::f_arange(classes, (Kind::Int64, label_n.device()))?;
        let is_nc = label_n.f_unsqueeze(1)?.f_eq_tensor(&class_c)?.f_logical_and(&valid_n.f_unsqueeze(1)?)?;
        let count_nc = is_nc.f_cumsum(0, Kind::Int64)?;
        let total_c = count_nc.f_select(0, n - 1)?;
        let at_n = label_n.f_clamp(0, classes - 1)?;
        let rank_n = count_nc.f_gather(1, &at_n.f_unsqueeze(1)?, false)?.f_squeeze_dim(1)?.f_sub_scalar(1)?;
        // Of more than a ring holds, only the last ones are written: every slot gets at most one feature.
        let newest_n = rank_n.f_ge_tensor(&total_c.f_index_select(0, &at_n)?.f_sub_scalar(self.capacity)?)?;
        let kept_n = is_nc.f_any_dim(1, false)?.f_logical_and(&newest_n)?;
        let ring_n = self.next_c.f_index_select(0, &at_n)?.f_add(&rank_n)?.f_remainder(self.capacity)?;
        let slot_n = at_n.f_mul_scalar(self.capacity)?.f_add(&ring_n)?;
        let slot_n = slot_n.f_masked_fill(&kept_n.f_logical_not()?, slots)?;

        let feat_nd = feat_nd.f_detach()?.f_to_kind(self.feat_sd.f_kind()?)?;
        let _ = self.feat_sd.f_index_copy_(0, &slot_n, &feat_nd)?;
        let spare = Tensor::f_full([1], -1, (Kind::Int64, label_n.device()))?;
        let mut label = Tensor::f_cat(&[&self.label_s, &spare], 0)?;
        let label = label.f_index_copy_(0, &slot_n, label_n)?;
        self.label_s.f_copy_(&label.f_narrow(0, 0, slots)?)?;
        self.next_c.f_copy_(&self.next_c.f_add(&total_c)?.f_remainder(self.capacity)?)?;
        Ok(())
    }
}
