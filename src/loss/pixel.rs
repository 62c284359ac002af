//! Pixel contrast on embedding maps (PiPa, L_pixel): pixels of one class attract, all other pixels repel.
//!
//! Suffixes: B batch, D channels, H W size, P = B H W pixels, N anchors.

use super::bank::MemoryBank;
use super::contrast::{self, contrast, Masks, Positive};
use crate::anchors::{AnchorSampler, Anchors};
use crate::choices;
use crate::error::{Error, Result};
use crate::group::Group;
use crate::rng::Rng;
use crate::shape::{check_device, check_float, check_integer, check_rank};
use crate::surrogate::compute_kind;
use crate::transfer::to_device;
use tch::{Device, Kind, Tensor};

choices! {
    /// Which pixels are anchors and keys.
    pub enum Sampling {
        /// A class-balanced draw, half of it where the network errs.
        Balanced = "balanced",
        /// Every labelled pixel, exactly; the streaming kernel needs no pair matrix, but time grows with the square.
        All = "all",
    }
}

/// Settings of the loss.
#[derive(Clone, Debug)]
pub struct PixelContrast {
    pub temperature: f64,
    pub sampling: Sampling,
    /// Which pixels a balanced draw takes.
    pub anchors: AnchorSampler,
}

impl PixelContrast {
    /// `embedding_bdhw` [B,D,H,W] of any length per pixel; `label_bhw` class ids and `prediction_bhw` predicted ids
    /// (hard/easy split) of any size, nearest-resized to H x W. Ignored pixels have no influence.
    /// Without a valid anchor the loss is a zero that keeps the graph.
    ///
    /// The features of `bank` are further keys without gradient, and afterwards a balanced sample of this batch enters it.
    ///
    /// With several processes it is the loss of the joined batch, of which this one has a slice: the same value everywhere,
    /// with a graph to the own embeddings only. `rng` and `bank` are equal on all processes, and stay so. Labels are
    /// gathered, so that all draw the same anchors; of the embeddings, only those of anchors travel.
    pub fn forward(
        &self,
        group: &dyn Group,
        embedding_bdhw: &Tensor,
        label_bhw: &Tensor,
        prediction_bhw: Option<&Tensor>,
        rng: &mut Rng,
        bank: Option<&mut MemoryBank>,
    ) -> Result<Tensor> {
        check_rank(embedding_bdhw, 4, "embedding_bdhw", "[B,D,H,W]")?;
        check_float(embedding_bdhw, "embedding_bdhw")?;
        let label_bhw = joined(group, &nearest_to(label_bhw, embedding_bdhw, "label_bhw", "embedding_bdhw")?)?;
        if let Some(bank) = &bank {
            bank.check(embedding_bdhw, &label_bhw, self.anchors.ignore_index)?;
        }
        let prediction_bhw = match prediction_bhw {
            Some(prediction) => {
                Some(joined(group, &nearest_to(prediction, embedding_bdhw, "prediction_bhw", "embedding_bdhw")?)?)
            }
            None => None,
        };
        let label_p = label_bhw.f_reshape([-1])?;
        let sample = match (self.sampling, &bank) {
            (Sampling::All, None) => None,
            _ => Some(self.anchors.draw(&label_bhw, prediction_bhw.as_ref(), rng)?),
        };
        let all = match self.sampling {
            Sampling::All => Some(every_pixel(&label_p, self.anchors.ignore_index)?),
            Sampling::Balanced => None,
        };
        let Some(anchors) = all.as_ref().or(sample.as_ref()) else {
            return Err(Error::value("pixel contrast: no sampling chosen"));
        };
        let anchor_nd = rows_in(group, embedding_bdhw, &anchors.index_n)?;
        let label_n = label_p.f_index_select(0, &anchors.index_n)?;
        let self_n = Tensor::f_arange(label_n.size()[0], (Kind::Int64, label_n.device()))?;
        // On the CPU there is no filler, so nothing needs masking.
        let valid_n = (label_n.device() != Device::Cpu).then_some(&anchors.valid_n);
        let Some(bank) = bank else {
            let masks = Masks { anchor_n: valid_n, key_m: valid_n, ..Masks::default() };
            let positive = Positive::Class { anchor_n: &label_n, key_m: &label_n };
            return contrast(
                contrast::Anchors::Keys(None),
                &anchor_nd,
                positive,
                Some(&self_n),
                self.temperature,
                masks,
            );
        };

        let anchor_nd = anchor_nd.f_to_kind(compute_kind(&anchor_nd)?)?;
        let (bank_sd, bank_label_s, filled_s) = bank.keys()?;
        let key_md = Tensor::f_cat(&[&anchor_nd, &bank_sd.f_to_kind(anchor_nd.f_kind()?)?], 0)?;
        let key_label_m = Tensor::f_cat(&[&label_n, &bank_label_s], 0)?;
        let key_valid_m = Tensor::f_cat(&[&anchors.valid_n, &filled_s], 0)?;
        let masks = Masks { anchor_n: valid_n, key_m: Some(&key_valid_m), ..Masks::default() };
        let positive = Positive::Class { anchor_n: &label_n, key_m: &key_label_m };
        let loss =
            contrast(contrast::Anchors::Own(&anchor_nd), &key_md, positive, Some(&self_n), self.temperature, masks)?;
        if let Some(sample) = &sample {
            let feat_nd = match self.sampling {
                Sampling::Balanced => anchor_nd,
                Sampling::All => rows_in(group, &embedding_bdhw.f_detach()?, &sample.index_n)?,
            };
            bank.push(&feat_nd, &label_p.f_index_select(0, &sample.index_n)?, &sample.valid_n)?;
        }
        Ok(loss)
    }
}

/// Class ids of any size at the positions of `like_bdhw`, checked; the names are for the message.
pub fn nearest_to(map_bhw: &Tensor, like_bdhw: &Tensor, name: &str, like_name: &str) -> Result<Tensor> {
    check_rank(map_bhw, 3, name, "[B,H,W]")?;
    check_integer(map_bhw, name)?;
    check_device(map_bhw, name, like_bdhw, like_name)?;
    let (from, to) = (map_bhw.size(), like_bdhw.size());
    if from[0] != to[0] {
        return Err(Error::shape(format!("{name}: expected batch {} as {like_name}, got {from:?}", to[0])));
    }
    if (from[1] == 0 && to[2] > 0) || (from[2] == 0 && to[3] > 0) {
        return Err(Error::shape(format!("{name}: expected at least one pixel, got {from:?}")));
    }
    nearest(&map_bhw.f_to_kind(Kind::Int64)?, to[2], to[3])
}

/// Nearest-neighbour resize of an integer map; exact for any id. Same source pixel as torch's mode "nearest".
pub fn nearest(map_bhw: &Tensor, height: i64, width: i64) -> Result<Tensor> {
    let mut map_bhw = map_bhw.f_alias()?;
    for (dim, to) in [(1i64, height), (2i64, width)] {
        let from = map_bhw.size()[dim as usize];
        if from != to {
            let scale = from as f32 / to as f32;
            let source: Vec<i64> = (0..to).map(|i| ((i as f32 * scale) as i64).min(from - 1)).collect();
            // Not blocking: an accelerator takes the list when it gets there, the host goes on.
            let source = to_device(&Tensor::f_from_slice(&source)?, map_bhw.device(), Kind::Int64)?;
            map_bhw = map_bhw.f_index_select(dim, &source)?;
        }
    }
    Ok(map_bhw)
}

/// All pixels that are not ignored; on an accelerator all pixels with a mask, because counting would make it wait.
fn every_pixel(label_p: &Tensor, ignore_index: i64) -> Result<Anchors> {
    let valid_p = label_p.f_ne(ignore_index)?;
    if label_p.device() == Device::Cpu {
        let index_n = valid_p.f_nonzero()?.f_reshape([-1])?;
        let valid_n = valid_p.f_index_select(0, &index_n)?;
        return Ok(Anchors { index_n, valid_n });
    }
    let index_n = Tensor::f_arange(label_p.size()[0], (Kind::Int64, label_p.device()))?;
    Ok(Anchors { index_n, valid_n: valid_p })
}

/// A label map of the joined batch, from this process's slice of it.
fn joined(group: &dyn Group, map_bhw: &Tensor) -> Result<Tensor> {
    if group.world() == 1 {
        return Ok(map_bhw.shallow_clone());
    }
    Ok(group.gather(&map_bhw.f_to_kind(Kind::Int)?)?.f_to_kind(Kind::Int64)?)
}

/// [`rows_at`] for positions in the joined map of all processes: own rows are on the graph, the others' are not.
fn rows_in(group: &dyn Group, map_bdhw: &Tensor, index_n: &Tensor) -> Result<Tensor> {
    if group.world() == 1 {
        return rows_at(map_bdhw, index_n);
    }
    let size = map_bdhw.size();
    let pixels = (size[0] * size[2] * size[3]).max(1);
    let own_n1 = index_n.f_div_scalar_mode(pixels, "floor")?.f_eq(group.rank())?.f_unsqueeze(1)?;
    // Positions of others are taken somewhere here and left out again, so that no shape depends on a value.
    let rows_nd = rows_at(map_bdhw, &index_n.f_remainder(pixels)?)?;
    let rows_nd = rows_nd.f_to_kind(compute_kind(&rows_nd)?)?;
    let mine_nd = rows_nd.f_detach()?.f_masked_fill(&own_n1.f_logical_not()?, 0.0)?;
    Ok(rows_nd.f_where_self(&own_n1, &group.sum(&mine_nd)?)?)
}

/// Rows [N,D] of `map_bdhw` at flat row-major positions of [B,H,W], without copying the map.
pub fn rows_at(map_bdhw: &Tensor, index_n: &Tensor) -> Result<Tensor> {
    let size = map_bdhw.size();
    let (h, w) = (size[2].max(1), size[3].max(1));
    let b = index_n.f_div_scalar_mode(h * w, "floor")?;
    let y = index_n.f_div_scalar_mode(w, "floor")?.f_remainder(h)?;
    let x = index_n.f_remainder(w)?;
    Ok(map_bdhw.f_permute([0, 2, 3, 1])?.f_index(&[Some(b), Some(y), Some(x)])?)
}
