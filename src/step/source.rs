//! Source side of the iteration (steps 2-4 of docs/method.md), and the contrasts of pixels with pixels and with classes,
//! which may look at mixed images too.

use super::batch::Batch;
use super::log::Log;
use super::networks::{Networks, Output};
use super::supervised::{crop_label, main_head};
use super::Step;
use crate::anchors::AnchorSampler;
use crate::error::{Error, Result};
use crate::group::Group;
use crate::loss::bank::MemoryBank;
use crate::loss::distribution::{DistributionContrast, Moments};
use crate::loss::feature_distance::FeatureDistance;
use crate::loss::pixel::{nearest, PixelContrast};
use crate::rng::Rng;
use crate::shape::check_rank;
use crate::surrogate::compute_kind;
use tch::{no_grad, Tensor};

impl Step {
    /// Steps 2-4 of docs/method.md: source cross entropy, pixel contrast and ImageNet feature distance, in one backward pass.
    pub(super) fn source_pass(
        &mut self,
        group: &dyn Group,
        networks: &mut dyn Networks,
        batch: &Batch,
        log: &mut Log,
        rng: &mut Rng,
    ) -> Result<()> {
        let output = networks.student(&batch.source)?;
        let (mut total, share) = self.supervised(group, &output, &batch.source_label)?;
        log.term(networks, "source", &total, self.iteration)?;
        log.scalar("acc_source", &share)?;

        if self.settings.pixel_weight > 0.0 {
            let loss = self.pixel_term(group, networks, &output, &batch.source_label, rng)?;
            log.term(networks, "pixel", &loss, self.iteration)?;
            total = total.f_add(&whole(group, loss)?)?;
        }
        if self.settings.distribution_weight > 0.0 {
            let loss = self.distribution_term(group, networks, &output, &batch.source_label)?;
            log.term(networks, "distribution", &loss, self.iteration)?;
            total = total.f_add(&loss)?;
        }
        if self.settings.feature_distance_weight > 0.0 {
            let reference = networks.imagenet(&batch.source)?;
            let (Some(feature), Some(reference)) = (output.features.last(), reference.last()) else {
                return Err(Error::value(
                    "feature distance: the student or the ImageNet model returned no features; \
                     set feature_distance_weight to 0 or return features",
                ));
            };
            let distance = FeatureDistance {
                form: self.settings.feature_distance_form,
                classes: self.settings.feature_distance_classes.clone(),
                min_ratio: self.settings.feature_distance_min_ratio,
                num_classes: self.settings.num_classes,
                weight: self.settings.feature_distance_weight,
                ignore_index: self.settings.ignore_index,
            };
            let loss = distance.forward(group, feature, &reference.f_detach()?, &batch.source_label.f_unsqueeze(1)?)?;
            log.term(networks, "feature_distance", &loss, self.iteration)?;
            total = total.f_add(&loss)?;
        }
        networks.backward(&total)
    }

    /// Step 3. Labels are cropped with the box of the features they describe (HRDA's detail crop).
    pub(super) fn pixel_term(
        &mut self,
        group: &dyn Group,
        networks: &mut dyn Networks,
        output: &Output,
        label_bhw: &Tensor,
        rng: &mut Rng,
    ) -> Result<Tensor> {
        let (features, region) = output.pixel_maps();
        let label = crop_label(label_bhw, region)?;
        // Hard and easy pixels are told apart by the head that looks at the same region.
        let head = output.heads.iter().find(|head| head.region == region).map_or_else(|| main_head(output), Ok)?;
        let prediction =
            if head.region == region { Some(no_grad(|| head.logits.f_detach()?.f_argmax(1, false))?) } else { None };
        let embedding = networks.pixel_embedding(features)?;
        let term = PixelContrast {
            temperature: self.settings.pixel_temperature,
            sampling: self.settings.pixel_sampling,
            anchors: AnchorSampler {
                max_anchors: self.settings.pixel_max_anchors,
                max_per_class: self.settings.pixel_max_per_class,
                min_pixels: self.settings.pixel_min_pixels,
                ignore_index: self.settings.ignore_index,
                per_image: false,
            },
        };
        if self.settings.pixel_memory_bank > 0 && self.bank.is_none() {
            check_rank(&embedding, 4, "pixel embedding", "[B,D,H,W]")?;
            let (classes, capacity) = (self.settings.num_classes, self.settings.pixel_memory_bank);
            let kind = compute_kind(&embedding)?;
            self.bank = Some(MemoryBank::new(classes, capacity, embedding.size()[1], kind, embedding.device())?);
        }
        let loss = term.forward(group, &embedding, &label, prediction.as_ref(), rng, self.bank.as_mut())?;
        Ok(loss.f_mul_scalar(self.settings.pixel_weight)?)
    }

    /// Contrast of every labelled pixel with the distributions of the classes, which take in this batch first.
    pub(super) fn distribution_term(
        &mut self,
        group: &dyn Group,
        networks: &mut dyn Networks,
        output: &Output,
        label_bhw: &Tensor,
    ) -> Result<Tensor> {
        let (features, region) = output.pixel_maps();
        let embedding = networks.pixel_embedding(features)?;
        check_rank(&embedding, 4, "pixel embedding", "[B,D,H,W]")?;
        let label = nearest(&crop_label(label_bhw, region)?, embedding.size()[2], embedding.size()[3])?;
        let s = &self.settings;
        let (temperature, ignore_index) = (s.distribution_temperature, s.ignore_index);
        let (weight, momentum, classes) = (s.distribution_weight, s.distribution_momentum, s.num_classes);
        // An ignored id may be any number: -1 counts nowhere.
        let counted = label.f_masked_fill(&label.f_eq(ignore_index)?, -1)?;
        let distribution = self.classes.distribution_for(&embedding, classes)?;
        distribution.update(group, &embedding, &counted, momentum)?;
        let seen = distribution.seen_k()?;
        let moments = Moments { mean_kd: &distribution.mean_kd, var_kd: &distribution.var_kd, seen_k: Some(&seen) };
        let loss = DistributionContrast { temperature, ignore_index }.forward(group, &embedding, &label, &moments)?;
        Ok(loss.f_mul_scalar(weight)?)
    }
}

/// What to differentiate of the pixel term: it is the joined loss, of which each process differentiates its own embeddings
/// only, so the mean over processes would be a world-th of the gradient.
pub(super) fn whole(group: &dyn Group, loss: Tensor) -> Result<Tensor> {
    Ok(if group.world() > 1 { loss.f_mul_scalar(group.world())? } else { loss })
}
