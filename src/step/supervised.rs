//! Supervised losses of the iteration: cross entropy of all heads, or the network's own loss.

use super::networks::{Head, Output};
use super::Step;
use crate::error::{Error, Result};
use crate::group::{count_labelled, part_of_mean, Group};
use crate::loss::segmentation::{accuracy, cross_entropy, cross_entropy_and_accuracy, Average};
use crate::patches::BoxYX;
use crate::shape::check_rank;
use tch::Tensor;

impl Step {
    /// The network's own loss where it has one, else the heads' cross entropy; and the accuracy of the main head.
    pub(super) fn supervised(
        &self,
        group: &dyn Group,
        output: &Output,
        label_bhw: &Tensor,
    ) -> Result<(Tensor, Tensor)> {
        let Some(own_loss) = &output.own_loss else { return self.segmentation(group, output, label_bhw, None) };
        let loss = own_loss(label_bhw)?;
        if loss.dim() != 0 || !loss.is_floating_point() {
            return Err(Error::shape(format!("own loss: expected one floating-point number, got {:?}", loss.size())));
        }
        let head = main_head(output)?;
        let label = crop_label(label_bhw, head.region)?;
        Ok((loss, accuracy(&head.logits, &label, self.settings.ignore_index, self.settings.loss_average)?))
    }

    /// Cross entropy summed over heads, each compared with its part of the label, and the accuracy of the main head.
    pub(super) fn segmentation(
        &self,
        group: &dyn Group,
        output: &Output,
        label_bhw: &Tensor,
        weight_bhw: Option<&Tensor>,
    ) -> Result<(Tensor, Tensor)> {
        let mut result: Option<(Tensor, Tensor)> = None;
        for head in &output.heads {
            check_rank(&head.logits, 4, "student logits", "[B,C,H,W]")?;
            if head.logits.size()[1] != self.settings.num_classes {
                return Err(Error::shape(format!(
                    "student logits: expected {} classes (num_classes), got shape {:?}",
                    self.settings.num_classes,
                    head.logits.size()
                )));
            }
            let label = crop_label(label_bhw, head.region)?;
            let weight = weight_bhw.map(|w| crop_label(w, head.region)).transpose()?;
            let (ignore, average) = (self.settings.ignore_index, self.settings.loss_average);
            let (loss, share) = match &result {
                None => cross_entropy_and_accuracy(&head.logits, &label, weight.as_ref(), ignore, average)?,
                Some((_, share)) => {
                    let loss = cross_entropy(&head.logits, &label, weight.as_ref(), ignore, average)?;
                    (loss, share.shallow_clone())
                }
            };
            let loss = match self.settings.loss_average {
                Average::All => loss, // processes have equally many pixels
                Average::Valid => part_of_mean(group, &loss, || count_labelled(&label, self.settings.ignore_index))?,
            };
            let loss = loss.f_mul_scalar(head.weight)?;
            result = Some(match result {
                Some((sum, _)) => (sum.f_add(&loss)?, share),
                None => (loss, share),
            });
        }
        result.ok_or_else(|| Error::value("the student returned no segmentation head"))
    }
}

pub(super) fn main_head(output: &Output) -> Result<&Head> {
    output.heads.first().ok_or_else(|| Error::value("the student returned no segmentation head"))
}

/// Part of a [B,H,W] map that a region of the image covers.
pub(super) fn crop_label(map_bhw: &Tensor, region: Option<BoxYX>) -> Result<Tensor> {
    match region {
        None => Ok(map_bhw.shallow_clone()),
        Some(b) => Ok(map_bhw.f_narrow(1, b.top, b.bottom - b.top)?.f_narrow(2, b.left, b.right - b.left)?),
    }
}
