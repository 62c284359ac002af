//! Pseudo-labels that are denoised (ProDA, CVPR 2021) and the terms of its stages on the unmixed target: each a setting of
//! its own.

use super::batch::Batch;
use super::draws::{self, Draws};
use super::log::Log;
use super::networks::{Networks, Output};
use super::settings::{LabelNetwork, LabelWeight, PrototypeLayer};
use super::supervised::{crop_label, main_head};
use super::{Mixed, Step};
use crate::error::{Error, Result};
use crate::group::{part_of_mean, Group};
use crate::loss::pixel::nearest;
use crate::loss::prototype_consistency::prototype_consistency;
use crate::loss::symmetric::SymmetricCrossEntropy;
use crate::prototypes::prototype_weights;
use crate::pseudo_label::PseudoLabel;
use crate::resize::bilinear;
use crate::shape::check_float;
use crate::surrogate::{bounded, compute_kind};
use tch::{no_grad, Kind, Tensor};

/// What the fixed and the moving networks say about the target's weak view.
pub(super) struct Weak {
    /// Of the teacher, at its own resolution.
    pub teacher: Tensor,
    /// Of the network that the training started from, if a setting asks for it.
    pub initial: Option<Tensor>,
    /// The teacher's map that prototypes live on, if a setting asks for it.
    pub features: Option<Tensor>,
}

impl Step {
    pub(super) fn uses_prototypes(&self) -> bool {
        self.settings.prototype_labels || self.settings.structure_weight > 0.0
    }

    pub(super) fn uses_initial(&self) -> bool {
        self.settings.label_network == LabelNetwork::Initial || self.settings.distillation_weight > 0.0
    }

    /// Whether the student sees the target unmixed.
    pub(super) fn target_pass_on(&self) -> bool {
        let s = &self.settings;
        s.target_weight > 0.0 || s.structure_weight > 0.0 || s.regularizer_weight > 0.0 || s.distillation_weight > 0.0
    }

    /// All passes over the weak view. No gradient.
    pub(super) fn weak(&self, networks: &mut dyn Networks, batch: &Batch) -> Result<Weak> {
        let (teacher, features) = self.teacher(networks, &batch.target)?;
        let mut teacher = bounded(&teacher.f_detach()?)?;
        if self.settings.label_flip {
            let mirrored = bounded(&networks.teacher(&batch.target.f_flip([3])?)?.f_detach()?)?.f_flip([3])?;
            teacher = teacher.f_div_scalar(2.0)?.f_add(&mirrored.f_div_scalar(2.0)?)?;
        }
        let initial = if self.uses_initial() { Some(self.initial(networks, batch)?) } else { None };
        let features = features.map(|map| map.f_detach()).transpose()?;
        Ok(Weak { teacher, initial, features })
    }

    /// Logits [B,C,h,w] of the network that the training started from, or those stored of it.
    fn initial(&self, networks: &mut dyn Networks, batch: &Batch) -> Result<Tensor> {
        let logits = networks.initial(&batch.target)?;
        let (found, images, classes) = (logits.size(), batch.target.size()[0], self.settings.num_classes);
        if found.len() != 4 || found[..2] != [images, classes] || logits.numel() == 0 {
            return Err(Error::shape(format!(
                "initial_logits (or the logits of initial): expected [{images}, {classes}, h, w], got {found:?}"
            )));
        }
        check_float(&logits, "initial_logits (or the logits of initial)")?;
        bounded(&logits.f_detach()?)
    }

    /// Logits of the teacher, and its map that prototypes live on, if they are used.
    fn teacher(&self, networks: &mut dyn Networks, image: &Tensor) -> Result<(Tensor, Option<Tensor>)> {
        if !self.uses_prototypes() {
            return Ok((networks.teacher(image)?, None));
        }
        match self.settings.prototype_layer {
            PrototypeLayer::Head => networks.teacher_classified(image).map(|(logits, map)| (logits, Some(map))),
            PrototypeLayer::Encoder(place) => {
                let logits = networks.teacher(image)?;
                Ok((logits, Some(map_at(&networks.teacher_features(image)?, place)?)))
            }
        }
    }

    /// The student's pass, and its map that prototypes live on, if its place among them is compared with the teacher's.
    fn student(&self, networks: &mut dyn Networks, image: &Tensor) -> Result<(Output, Option<Tensor>)> {
        if self.settings.structure_weight == 0.0 {
            return Ok((networks.student(image)?, None));
        }
        match self.settings.prototype_layer {
            PrototypeLayer::Head => networks.student_classified(image).map(|(output, map)| (output, Some(map))),
            PrototypeLayer::Encoder(place) => {
                let output = networks.student(image)?;
                let map = map_at(&output.features, place)?;
                Ok((output, Some(map)))
            }
        }
    }

    /// Pseudo-labels of `logits` (of the network the settings name, at the image's size) and their weights.
    pub(super) fn pseudo(
        &mut self,
        group: &dyn Group,
        logits: &Tensor,
        weak: &Weak,
        valid_mask: Option<&Tensor>,
    ) -> Result<(Tensor, Tensor)> {
        let s = self.settings.clone();
        let logits = match &weak.features {
            Some(features) if s.prototype_labels => {
                let prototypes = self.classes.prototypes_for(features, s.num_classes)?;
                let seen = prototypes.seen_k()?;
                let weight = prototype_weights(features, &prototypes.proto_kd, s.prototype_temperature, Some(&seen))?;
                // softmax(z + log w) = w p / sum w p. In logarithms no product vanishes; between grid points distances are
                // interpolated.
                let opinion = weight.f_clamp_min(1e-37)?.f_log()?;
                let opinion = bilinear(&opinion, &logits.size()[2..])?;
                logits.f_add(&opinion)?
            }
            _ => logits.shallow_clone(),
        };
        let threshold = match s.label_weight {
            LabelWeight::Share => s.threshold,
            LabelWeight::Confident => 0.0,
        };
        let pseudo = PseudoLabel { threshold, ignore_top: s.ignore_top, ignore_bottom: s.ignore_bottom };
        let (label, weight) = pseudo.forward(group, &logits, valid_mask)?;
        if s.label_weight == LabelWeight::Share {
            return Ok((label, weight));
        }
        let kind = compute_kind(&logits)?;
        let sure = logits.f_softmax(1, kind)?.f_amax([1i64], false)?.f_ge(s.threshold)?;
        Ok((label, weight.f_mul(&sure.f_to_kind(weight.f_kind()?)?)?))
    }

    /// One pass over a strong view of the unmixed target in the same geometry, with the terms that are on.
    pub(super) fn target_pass(
        &mut self,
        group: &dyn Group,
        networks: &mut dyn Networks,
        batch: &Batch,
        draws: &Draws,
        (mixed, weak): (&Mixed, &Weak),
        log: &mut Log,
    ) -> Result<()> {
        let s = self.settings.clone();
        let image = no_grad(|| match draws.target_augment.is_empty() {
            true => Ok(batch.target.shallow_clone()),
            false => draws::strong_augment(&s).apply(&batch.target, &draws.target_augment),
        })?;
        let (output, place) = self.student(networks, &image)?;
        let mut total: Option<Tensor> = None;
        let mut add = |networks: &mut dyn Networks, log: &mut Log, name: &str, loss: Tensor| -> Result<()> {
            log.term(networks, name, &loss, self.iteration)?;
            total = Some(match &total {
                Some(sum) => sum.f_add(&loss)?,
                None => loss,
            });
            Ok(())
        };
        if s.target_weight > 0.0 {
            let loss = denoised_entropy(group, &output, mixed, &s)?;
            add(networks, log, "target", loss.f_mul_scalar(s.target_weight)?)?;
        }
        if let (Some(student), Some(features)) = (place, &weak.features) {
            let valid = on_grid(batch.valid_mask.as_ref(), &student)?;
            let prototypes = self.classes.prototypes_for(features, s.num_classes)?;
            let (seen, tau) = (prototypes.seen_k()?, s.prototype_temperature);
            let loss = prototype_consistency(
                group,
                &student,
                features,
                &prototypes.proto_kd,
                tau,
                valid.as_ref(),
                Some(&seen),
            )?;
            add(networks, log, "structure", loss.f_mul_scalar(s.structure_weight)?)?;
        }
        if s.regularizer_weight > 0.0 || s.distillation_weight > 0.0 {
            let logits = &main_head(&output)?.logits;
            if main_head(&output)?.region.is_some() {
                return Err(Error::value(
                    "regularizer and distillation: the student's main head must see the whole image",
                ));
            }
            let kind = compute_kind(logits)?;
            let log_p = logits.f_to_kind(kind)?.f_log_softmax(1, kind)?;
            let valid = on_grid(batch.valid_mask.as_ref(), logits)?;
            if s.regularizer_weight > 0.0 {
                let loss = mean_valid(group, &log_p.f_mean_dim(1i64, false, kind)?.f_neg()?, valid.as_ref(), kind)?;
                add(networks, log, "regularizer", loss.f_mul_scalar(s.regularizer_weight)?)?;
            }
            if let (true, Some(initial)) = (s.distillation_weight > 0.0, &weak.initial) {
                let log_q = resized(initial, &logits.size()[2..])?.f_to_kind(kind)?.f_log_softmax(1, kind)?;
                let q = log_q.f_exp()?;
                // q log(q / p) is 0 where q is, whatever p.
                let part = q.f_mul(&log_q.f_sub(&log_p)?)?.f_where_scalarother(&q.f_ne(0)?, 0.0)?;
                let divergence = part.f_sum_dim_intlist(1i64, false, kind)?;
                let loss = mean_valid(group, &divergence, valid.as_ref(), kind)?;
                add(networks, log, "distillation", loss.f_mul_scalar(s.distillation_weight)?)?;
            }
        }
        match total {
            Some(total) => networks.backward(&total),
            None => Ok(()),
        }
    }

    /// Moves the prototypes by the teacher's own labels, after all terms have used them.
    pub(super) fn move_prototypes(&mut self, group: &dyn Group, batch: &Batch, weak: &Weak) -> Result<()> {
        let Some(features) = &weak.features else { return Ok(()) };
        no_grad(|| {
            let logits = resized(&weak.teacher, &features.size()[2..])?;
            let mut label = logits.f_argmax(1, false)?;
            if let Some(valid) = on_grid(batch.valid_mask.as_ref(), features)? {
                label = label.f_masked_fill(&valid.f_eq(0)?, -1)?;
            }
            let (classes, s) = (self.settings.num_classes, &self.settings);
            let (momentum, least) = (s.prototype_momentum, s.prototype_min_pixels);
            self.classes.prototypes_for(features, classes)?;
            self.classes.move_prototypes(group, features, &label, momentum, least)
        })
    }
}

/// The encoder's map of that place; negative places count from the deepest on.
fn map_at(features: &[Tensor], place: i64) -> Result<Tensor> {
    let count = features.len() as i64;
    let index = if place < 0 { count + place } else { place };
    if !(0..count).contains(&index) {
        return Err(Error::value(format!(
            "prototype_layer: expected one of the {count} maps of the encoder, got {place}"
        )));
    }
    Ok(features[index as usize].shallow_clone())
}

/// Symmetric cross entropy of every head with its part of the pseudo-label. Pixels of weight 0 are not labelled.
fn denoised_entropy(
    group: &dyn Group,
    output: &Output,
    mixed: &Mixed,
    s: &super::settings::Settings,
) -> Result<Tensor> {
    let term = SymmetricCrossEntropy { ce: s.target_ce, rce: s.target_rce, floor: 1e-4, ignore_index: s.ignore_index };
    let label = mixed.pseudo_label.f_masked_fill(&mixed.pseudo_weight.f_eq(0.0)?, s.ignore_index)?;
    let mut total: Option<Tensor> = None;
    for head in &output.heads {
        let label = crop_label(&label, head.region)?.f_contiguous()?;
        let weight = crop_label(&mixed.pseudo_weight, head.region)?.f_contiguous()?;
        let logits = resized(&head.logits, &label.size()[1..])?;
        let loss = term.forward(group, &logits, &label, Some(&weight))?.f_mul_scalar(head.weight)?;
        total = Some(match total {
            Some(sum) => sum.f_add(&loss)?,
            None => loss,
        });
    }
    total.ok_or_else(|| Error::value("the student returned no segmentation head"))
}

/// Bilinear, corners not aligned; half precision is widened first.
pub(super) fn resized(logits: &Tensor, size: &[i64]) -> Result<Tensor> {
    if logits.size()[2..] == *size {
        return Ok(logits.shallow_clone());
    }
    bilinear(&bounded(logits)?.f_to_kind(compute_kind(logits)?)?, size)
}

/// A mask [B,H,W] on the grid of `map` [B,*,h,w].
pub(super) fn on_grid(mask_bhw: Option<&Tensor>, map: &Tensor) -> Result<Option<Tensor>> {
    mask_bhw.map(|mask| nearest(mask, map.size()[2], map.size()[3])).transpose()
}

/// Mean over the valid pixels of all processes.
pub(super) fn mean_valid(
    group: &dyn Group,
    cost_bhw: &Tensor,
    valid_bhw: Option<&Tensor>,
    kind: Kind,
) -> Result<Tensor> {
    let Some(valid) = valid_bhw else { return Ok(cost_bhw.f_mean(kind)?) };
    let valid = valid.f_ne(0)?;
    let count = valid.f_sum(Kind::Int64)?;
    let sum = cost_bhw.f_where_scalarother(&valid, 0.0)?.f_sum(kind)?;
    part_of_mean(group, &sum.f_div(&count.f_clamp_min(1)?.f_to_kind(kind)?)?, || Ok(count))
}
