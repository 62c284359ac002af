//! Target side of the iteration (steps 5-8 of docs/method.md) and MIC's masked consistency.

use super::batch::Batch;
use super::denoise::{mean_valid, on_grid, Weak};
use super::draws::{self, Draws, MixDraw};
use super::log::Log;
use super::networks::Networks;
use super::settings::{LabelNetwork, MaskKind, PatchNegatives, PatchSource};
use super::source::whole;
use super::{Mixed, Step};
use crate::error::{Error, Result};
use crate::group::Group;
use crate::loss::patch::patch_contrast;
use crate::masking;
use crate::mix::{class_mask, class_mix, draw_class_mask};
use crate::patches::PatchPair;
use crate::resize::bilinear;
use crate::rng::Rng;
use crate::shape::check_rank;
use crate::transfer::to_device;
use tch::{no_grad, Kind, Tensor};

impl Step {
    /// Steps 5-8: pseudo-labels, ClassMix, mixed pass, patch contrast, masked consistency.
    pub(super) fn target_passes(
        &mut self,
        group: &dyn Group,
        networks: &mut dyn Networks,
        batch: &Batch,
        draws: &Draws,
        log: &mut Log,
        rng: &mut Rng,
    ) -> Result<Mixed> {
        let (mixed, weak) = no_grad(|| self.mix(group, networks, batch, draws))?;
        log.scalar("pseudo_weight", &mixed.pseudo_weight.f_mean(Kind::Float)?)?;

        if self.settings.mix_weight > 0.0 {
            let output = networks.student(&mixed.image)?;
            let (loss, share) = self.segmentation(group, &output, &mixed.label, Some(&mixed.weight))?;
            let mut loss = loss.f_mul_scalar(self.settings.mix_weight)?;
            log.term(networks, "mix", &loss, self.iteration)?;
            log.scalar("acc_mix", &share)?;
            let ignored = self.settings.ignore_index;
            let counted = || mixed.label.f_masked_fill(&mixed.weight.f_eq(0.0)?, ignored);
            if self.settings.pixel_weight > 0.0 && self.settings.pixel_target {
                let contrast = self.pixel_term(group, networks, &output, &counted()?, rng)?;
                log.term(networks, "pixel_mix", &contrast, self.iteration)?;
                loss = loss.f_add(&whole(group, contrast)?)?;
            }
            if self.settings.distribution_weight > 0.0 && self.settings.distribution_target {
                let contrast = self.distribution_term(group, networks, &output, &counted()?)?;
                log.term(networks, "distribution_mix", &contrast, self.iteration)?;
                loss = loss.f_add(&contrast)?;
            }
            networks.backward(&loss)?;
        }
        if let Some(pair) = &draws.patches {
            let (image, label) = match self.settings.patch_source {
                PatchSource::Mixed => (&mixed.image, &mixed.label),
                PatchSource::Target => (&batch.target, &mixed.pseudo_label),
            };
            let loss = self.patch_term(networks, image, label, pair)?;
            log.term(networks, "patch", &loss, self.iteration)?;
            networks.backward(&loss)?;
        }
        if let Some(uniform) = &draws.mask {
            let loss = self.masked_term(group, networks, batch, &mixed, uniform, draws)?;
            log.term(networks, "mask", &loss, self.iteration)?;
            networks.backward(&loss)?;
        }
        if self.distance_on_target() {
            let loss = self.target_distance(group, networks, batch)?;
            log.term(networks, "feature_distance_target", &loss, self.iteration)?;
            networks.backward(&loss)?;
        }
        if self.target_pass_on() {
            self.target_pass(group, networks, batch, draws, (&mixed, &weak), log)?;
        }
        self.move_prototypes(group, batch, &weak)?;
        Ok(mixed)
    }

    /// Steps 5 and 6.
    fn mix(
        &mut self,
        group: &dyn Group,
        networks: &mut dyn Networks,
        batch: &Batch,
        draws: &Draws,
    ) -> Result<(Mixed, Weak)> {
        let weak = self.weak(networks, batch)?;
        let logits = match (self.settings.label_network, &weak.initial) {
            (LabelNetwork::Initial, Some(initial)) => initial,
            _ => &weak.teacher,
        };
        check_rank(logits, 4, "teacher logits", "[B,C,H,W]")?;
        let size = &batch.target.size()[2..];
        let logits = bilinear(logits, size)?;
        let (pseudo_label, pseudo_weight) = self.pseudo(group, &logits, &weak, batch.valid_mask.as_ref())?;
        let s = &self.settings;

        let label_b1hw = batch.source_label.f_unsqueeze(1)?;
        let mask = match &draws.mix {
            MixDraw::Classes(classes) => class_mask(&label_b1hw, classes)?,
            MixDraw::Seed(seed) => {
                let scope = s.mix_classes;
                draw_class_mask(group, &label_b1hw, s.num_classes, s.ignore_index, scope, &mut Rng::new(*seed))?
            }
        };
        let image = class_mix(&mask, &batch.source, &batch.target)?;
        let label = class_mix(&mask, &batch.source_label, &pseudo_label)?;
        let weight = class_mix(&mask, &pseudo_weight.f_ones_like()?, &pseudo_weight)?;
        let image =
            if draws.augment.is_empty() { image } else { draws::strong_augment(s).apply(&image, &draws.augment)? };
        let patches = draws.patches;
        Ok((Mixed { image, label, weight, pseudo_label, pseudo_weight, mask, patches }, weak))
    }

    /// Step 8 of docs/method.md: both crops go through the student in one pass.
    fn patch_term(
        &self,
        networks: &mut dyn Networks,
        image: &Tensor,
        label_bhw: &Tensor,
        pair: &PatchPair,
    ) -> Result<Tensor> {
        let (first, second) = pair.crop(image)?;
        let images = first.size()[0];
        let features = networks.student_features(&Tensor::f_cat(&[first, second], 0)?)?;
        let embedding = networks.patch_embedding(&features)?;
        check_rank(&embedding, 4, "patch embedding", "[B,D,H,W]")?;
        let (overlap1, overlap2) = pair.overlap_on(embedding.size()[2], embedding.size()[3])?;
        let labels = match self.settings.patch_negatives {
            PatchNegatives::All => None,
            PatchNegatives::OtherClasses => {
                let (one, two) = pair.crop(&label_bhw.f_unsqueeze(1)?)?;
                Some((one.f_squeeze_dim(1)?, two.f_squeeze_dim(1)?))
            }
        };
        let loss = patch_contrast(
            &embedding.f_narrow(0, 0, images)?,
            &embedding.f_narrow(0, images, images)?,
            overlap1,
            overlap2,
            pair.flip1,
            pair.flip2,
            labels.as_ref().map(|(one, two)| (one, two)),
            self.settings.patch_temperature,
        )?;
        Ok(loss.f_mul_scalar(self.settings.patch_weight)?)
    }

    /// Distance of the student's deepest features of the target to those of the frozen encoder, at all valid positions.
    fn target_distance(&self, group: &dyn Group, networks: &mut dyn Networks, batch: &Batch) -> Result<Tensor> {
        let (features, reference) = (networks.student_maps(&batch.target)?, networks.imagenet(&batch.target)?);
        let (Some(feature), Some(reference)) = (features.last(), reference.last()) else {
            return Err(Error::value(
                "feature distance: the student or the frozen encoder returned no features; set feature_distance_weight to 0",
            ));
        };
        let cost = self.settings.feature_distance_form.per_position(feature, reference)?;
        let valid = on_grid(batch.valid_mask.as_ref(), feature)?;
        let loss = mean_valid(group, &cost, valid.as_ref(), cost.f_kind()?)?;
        Ok(loss.f_mul_scalar(self.settings.feature_distance_weight)?)
    }

    /// Masked image consistency (MIC, CVPR 2023): the student sees the target with blocks removed.
    fn masked_term(
        &self,
        group: &dyn Group,
        networks: &mut dyn Networks,
        batch: &Batch,
        mixed: &Mixed,
        uniform: &[Vec<f64>],
        draws: &Draws,
    ) -> Result<Tensor> {
        let s = &self.settings;
        let (image, mask) = no_grad(|| -> Result<(Tensor, Tensor)> {
            let (height, width) = (batch.target.size()[2], batch.target.size()[3]);
            let (rows, columns) = masking::mask_grid(height, width, s.mask_block)?;
            let cells = (rows * columns) as usize;
            if uniform.len() as i64 != batch.target.size()[0] || uniform.iter().any(|image| image.len() != cells) {
                return Err(Error::shape(format!(
                    "draws: mask: expected {} lists (one per image) of {cells} numbers ({rows} x {columns} blocks), got \
                     lists of {:?}",
                    batch.target.size()[0],
                    uniform.iter().map(Vec::len).collect::<Vec<_>>()
                )));
            }
            let flat: Vec<f32> = uniform.iter().flatten().map(|&u| u as f32).collect();
            let uniform = Tensor::f_from_slice(&flat)?.f_reshape([-1, 1, rows, columns])?;
            let uniform = to_device(&uniform, batch.target.device(), Kind::Float)?;
            let image = if draws.mask_augment.is_empty() {
                batch.target.shallow_clone()
            } else {
                draws::strong_augment(s).apply(&batch.target, &draws.mask_augment)?
            };
            let mask = masking::block_mask(&uniform, s.mask_ratio, height, width)?;
            let mask = mask.f_to_kind(image.kind())?;
            Ok((image, mask))
        })?;
        let output = match s.mask_kind {
            MaskKind::Pixels => networks.student(&no_grad(|| image.f_mul(&mask))?)?,
            MaskKind::Tokens => networks.student_tokens(&image, &mask)?,
        };
        let (loss, _) = self.segmentation(group, &output, &mixed.pseudo_label, Some(&mixed.pseudo_weight))?;
        Ok(loss.f_mul_scalar(s.mask_weight)?)
    }
}
