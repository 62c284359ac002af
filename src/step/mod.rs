//! One PiPa iteration (method, steps 1-9): order, weights, warm-up and log. It sees networks only through
//! [`Networks`], so it runs without Python.

mod draws;
mod log;
mod networks;
mod settings;
#[cfg(test)]
mod tests;

pub use draws::{Draws, MixDraw};
pub use networks::{Head, Networks, Output};
pub use settings::{LossAverage, MixClasses, PatchSource, PixelSampling, Settings};

use crate::error::{Error, Result};
use crate::host::slice::check_ids;
use crate::loss::bank::MemoryBank;
use crate::loss::feature_distance::FeatureDistance;
use crate::loss::patch::patch_contrast;
use crate::loss::pixel::{PixelContrast, Sampling};
use crate::loss::segmentation::{accuracy, cross_entropy, Average};
use crate::loss::surrogate::compute_kind;
use crate::masking;
use crate::mix::{class_mask, class_mix, draw_class_mask, ClassScope};
use crate::patches::{BoxYX, PatchPair};
use crate::pseudo_label::PseudoLabel;
use crate::rng::Rng;
use crate::shape::{check_device, check_float, check_integer, check_rank, check_size};
use crate::teacher::ema_update;
use log::Log;
use tch::{no_grad, Device, Kind, Tensor};

/// Labelled source images and unlabelled target images.
pub struct Batch {
    /// [B,3,H,W], normalised.
    pub source: Tensor,
    /// [B,H,W] or [B,1,H,W] integer class ids.
    pub source_label: Tensor,
    /// [B,3,H,W], normalised, the size of `source`.
    pub target: Tensor,
    /// [B,H,W] or [B,1,H,W]; 0 where the target's pseudo-labels must weigh 0 (padding, for example).
    pub valid_mask: Option<Tensor>,
}

/// The iteration with its state: settings, counter and random numbers.
pub struct Step {
    pub settings: Settings,
    /// Iterations done; also the t of the teacher's decay and of the warm-up.
    pub iteration: i64,
    pub rng: Rng,
    /// Features of earlier iterations, if the settings ask for them; made when their number of channels is known.
    pub bank: Option<MemoryBank>,
}

/// Options of one call.
#[derive(Default)]
pub struct Call {
    /// Draws recorded elsewhere, instead of new ones.
    pub draws: Option<Draws>,
    /// Report the gradient norm of each term (costs one backward pass per term).
    pub gradients: bool,
    /// Refuse non-finite losses on accelerators too (costs one synchronisation per term).
    pub check_finite: bool,
}

/// What one iteration gives.
pub struct Report {
    /// Named 0-dim tensors, detached, on the device.
    pub scalars: Vec<(String, Tensor)>,
    /// Images and labels of the iteration for panels.
    pub mixed: Option<Mixed>,
}

/// Target side of the iteration (steps 5 and 6).
pub struct Mixed {
    pub image: Tensor,
    pub label: Tensor,
    pub weight: Tensor,
    pub pseudo_label: Tensor,
    pub pseudo_weight: Tensor,
    pub mask: Tensor,
    pub patches: Option<PatchPair>,
}

impl Step {
    pub fn new(settings: Settings, seed: u64) -> Self {
        Self { settings, iteration: 0, rng: Rng::new(seed), bank: None }
    }

    /// Runs one iteration: updates the teacher and adds gradients to the student. The caller owns the optimiser.
    ///
    /// An error leaves counter, random numbers and memory bank as they were; the caller drops the gradients. The teacher
    /// has then followed the student already, and would do so again if the iteration were repeated.
    pub fn run(&mut self, networks: &mut dyn Networks, batch: &Batch, call: Call) -> Result<Report> {
        let bank = self.bank.as_ref().map(MemoryBank::duplicate).transpose()?;
        let report = self.attempt(networks, batch, call);
        if report.is_err() {
            self.bank = bank;
        }
        report
    }

    fn attempt(&mut self, networks: &mut dyn Networks, batch: &Batch, call: Call) -> Result<Report> {
        let batch = check_batch(batch, &self.settings)?;
        let size = (batch.source.size()[2], batch.source.size()[3]);
        let images = batch.source.size()[0] as usize;
        // A failed iteration must not move the stream of random numbers: a retry then sees the same draws.
        let mut rng = self.rng.clone();
        let draws = match call.draws {
            Some(draws) => draws,
            None => Draws::new(&self.settings, images, size, self.patch_on(), &mut rng)?,
        };
        let mut log = Log::new(call.gradients, call.check_finite);

        let self_training = self.needs_target();
        if self_training {
            let (teacher, student) = networks.parameters()?;
            no_grad(|| ema_update(&teacher, &student, self.iteration, self.settings.alpha))?;
        }
        self.source_pass(networks, &batch, &mut log, &mut rng)?;
        let mixed = if self_training { Some(self.target_passes(networks, &batch, &draws, &mut log)?) } else { None };

        self.rng = rng;
        self.iteration += 1;
        Ok(Report { scalars: log.finish()?, mixed })
    }

    /// Whether any term looks at target images; without one this is source-only training.
    fn needs_target(&self) -> bool {
        let s = &self.settings;
        s.mix_weight > 0.0 || s.mask_weight > 0.0 || s.patch_weight > 0.0
    }

    fn patch_on(&self) -> bool {
        self.settings.patch_weight > 0.0 && self.iteration >= self.settings.patch_warmup
    }

    fn average(&self) -> Average {
        match self.settings.loss_average {
            LossAverage::All => Average::All,
            LossAverage::Valid => Average::Valid,
        }
    }

    /// Steps 2-4: source cross entropy, pixel contrast and ImageNet feature distance, in one backward pass.
    fn source_pass(&mut self, networks: &mut dyn Networks, batch: &Batch, log: &mut Log, rng: &mut Rng) -> Result<()> {
        let output = networks.student(&batch.source)?;
        let mut total = self.segmentation(&output, &batch.source_label, None)?;
        log.term(networks, "source", &total, self.iteration)?;
        let main = main_head(&output)?;
        let share = accuracy(&main.logits, &batch.source_label, self.settings.ignore_index, self.average())?;
        log.scalar("acc_source", &share)?;

        if self.settings.pixel_weight > 0.0 {
            let loss = self.pixel_term(networks, &output, &batch.source_label, rng)?;
            log.term(networks, "pixel", &loss, self.iteration)?;
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
                classes: self.settings.feature_distance_classes.clone(),
                min_ratio: self.settings.feature_distance_min_ratio,
                num_classes: self.settings.num_classes,
                weight: self.settings.feature_distance_weight,
                ignore_index: self.settings.ignore_index,
            };
            let loss = distance.forward(feature, &reference.f_detach()?, &batch.source_label.f_unsqueeze(1)?)?;
            log.term(networks, "feature_distance", &loss, self.iteration)?;
            total = total.f_add(&loss)?;
        }
        networks.backward(&total)
    }

    /// Step 3. Labels are cropped with the box of the features they describe (HRDA's detail crop).
    fn pixel_term(
        &mut self,
        networks: &mut dyn Networks,
        output: &Output,
        label_bhw: &Tensor,
        rng: &mut Rng,
    ) -> Result<Tensor> {
        let (features, region) = match &output.detail {
            Some((features, region)) => (features, Some(*region)),
            None => (&output.features, None),
        };
        let label = crop_label(label_bhw, region)?;
        // Hard and easy pixels are told apart by the head that looks at the same region.
        let head = output.heads.iter().find(|head| head.region == region).map_or_else(|| main_head(output), Ok)?;
        let prediction =
            if head.region == region { Some(no_grad(|| head.logits.f_detach()?.f_argmax(1, false))?) } else { None };
        let embedding = networks.pixel_embedding(features)?;
        let term = PixelContrast {
            temperature: self.settings.pixel_temperature,
            sampling: match self.settings.pixel_sampling {
                PixelSampling::Balanced => Sampling::Balanced,
                PixelSampling::All => Sampling::All,
            },
            max_anchors: self.settings.pixel_max_anchors,
            max_per_class: self.settings.pixel_max_per_class,
            min_pixels: self.settings.pixel_min_pixels,
            ignore_index: self.settings.ignore_index,
        };
        if self.settings.pixel_memory_bank > 0 && self.bank.is_none() {
            check_rank(&embedding, 4, "pixel embedding", "[B,D,H,W]")?;
            let (classes, capacity) = (self.settings.num_classes, self.settings.pixel_memory_bank);
            let kind = compute_kind(&embedding)?;
            self.bank = Some(MemoryBank::new(classes, capacity, embedding.size()[1], kind, embedding.device())?);
        }
        let loss = term.forward_with_bank(&embedding, &label, prediction.as_ref(), rng, self.bank.as_mut())?;
        Ok(loss.f_mul_scalar(self.settings.pixel_weight)?)
    }

    /// Steps 5-8: pseudo-labels, ClassMix, mixed pass, patch contrast, masked consistency.
    fn target_passes(
        &mut self,
        networks: &mut dyn Networks,
        batch: &Batch,
        draws: &Draws,
        log: &mut Log,
    ) -> Result<Mixed> {
        let mixed = no_grad(|| self.mix(networks, batch, draws))?;
        log.scalar("pseudo_weight", &mixed.pseudo_weight.f_mean(Kind::Float)?)?;

        if self.settings.mix_weight > 0.0 {
            let output = networks.student(&mixed.image)?;
            let loss = self.segmentation(&output, &mixed.label, Some(&mixed.weight))?;
            let loss = loss.f_mul_scalar(self.settings.mix_weight)?;
            log.term(networks, "mix", &loss, self.iteration)?;
            let main = main_head(&output)?;
            let share = accuracy(&main.logits, &mixed.label, self.settings.ignore_index, self.average())?;
            log.scalar("acc_mix", &share)?;
            networks.backward(&loss)?;
        }
        if let Some(pair) = &draws.patches {
            let image = match self.settings.patch_source {
                PatchSource::Mixed => &mixed.image,
                PatchSource::Target => &batch.target,
            };
            let loss = self.patch_term(networks, image, pair)?;
            log.term(networks, "patch", &loss, self.iteration)?;
            networks.backward(&loss)?;
        }
        if let Some(uniform) = &draws.mask {
            let loss = self.masked_term(networks, batch, &mixed, uniform, draws)?;
            log.term(networks, "mask", &loss, self.iteration)?;
            networks.backward(&loss)?;
        }
        Ok(mixed)
    }

    /// Steps 5 and 6.
    fn mix(&self, networks: &mut dyn Networks, batch: &Batch, draws: &Draws) -> Result<Mixed> {
        let s = &self.settings;
        let logits = networks.teacher(&batch.target)?.f_detach()?;
        check_rank(&logits, 4, "teacher logits", "[B,C,H,W]")?;
        let size = &batch.target.size()[2..];
        let logits =
            if logits.size()[2..] == *size { logits } else { logits.f_upsample_bilinear2d(size, false, None, None)? };
        let pseudo = PseudoLabel { threshold: s.threshold, ignore_top: s.ignore_top, ignore_bottom: s.ignore_bottom };
        let (pseudo_label, pseudo_weight) = pseudo.forward(&logits, batch.valid_mask.as_ref())?;

        let label_b1hw = batch.source_label.f_unsqueeze(1)?;
        let mask = match &draws.mix {
            MixDraw::Classes(classes) => class_mask(&label_b1hw, classes)?,
            MixDraw::Seed(seed) => {
                let scope = match s.mix_classes {
                    MixClasses::PerImage => ClassScope::PerImage,
                    MixClasses::Batch => ClassScope::Batch,
                };
                draw_class_mask(&label_b1hw, s.num_classes, s.ignore_index, scope, &mut Rng::new(*seed))?
            }
        };
        let image = class_mix(&mask, &batch.source, &batch.target)?;
        let label = class_mix(&mask, &batch.source_label, &pseudo_label)?;
        let weight = class_mix(&mask, &pseudo_weight.f_ones_like()?, &pseudo_weight)?;
        let image =
            if draws.augment.is_empty() { image } else { draws::strong_augment(s).apply(&image, &draws.augment)? };
        Ok(Mixed { image, label, weight, pseudo_label, pseudo_weight, mask, patches: draws.patches })
    }

    /// Step 8. Both crops go through the student in one pass.
    fn patch_term(&self, networks: &mut dyn Networks, image: &Tensor, pair: &PatchPair) -> Result<Tensor> {
        let (first, second) = pair.crop(image)?;
        let images = first.size()[0];
        let features = networks.student_features(&Tensor::f_cat(&[first, second], 0)?)?;
        let embedding = networks.patch_embedding(&features)?;
        check_rank(&embedding, 4, "patch embedding", "[B,D,H,W]")?;
        let (overlap1, overlap2) = pair.overlap_on(embedding.size()[2], embedding.size()[3])?;
        let loss = patch_contrast(
            &embedding.f_narrow(0, 0, images)?,
            &embedding.f_narrow(0, images, images)?,
            overlap1,
            overlap2,
            pair.flip1,
            pair.flip2,
            self.settings.patch_temperature,
        )?;
        Ok(loss.f_mul_scalar(self.settings.patch_weight)?)
    }

    /// Masked image consistency (MIC, CVPR 2023): the student sees the target with blocks removed.
    fn masked_term(
        &self,
        networks: &mut dyn Networks,
        batch: &Batch,
        mixed: &Mixed,
        uniform: &[Vec<f64>],
        draws: &Draws,
    ) -> Result<Tensor> {
        let s = &self.settings;
        let image = no_grad(|| -> Result<Tensor> {
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
            let uniform =
                Tensor::f_from_slice(&flat)?.f_reshape([-1, 1, rows, columns])?.f_to_device(batch.target.device())?;
            let image = if draws.mask_augment.is_empty() {
                batch.target.shallow_clone()
            } else {
                draws::strong_augment(s).apply(&batch.target, &draws.mask_augment)?
            };
            let mask = masking::block_mask(&uniform, s.mask_ratio, height, width)?;
            Ok(image.f_mul(&mask.f_to_kind(image.kind())?)?)
        })?;
        let output = networks.student(&image)?;
        let loss = self.segmentation(&output, &mixed.pseudo_label, Some(&mixed.pseudo_weight))?;
        Ok(loss.f_mul_scalar(s.mask_weight)?)
    }

    /// Cross entropy summed over heads; each head is compared with its part of the label.
    fn segmentation(&self, output: &Output, label_bhw: &Tensor, weight_bhw: Option<&Tensor>) -> Result<Tensor> {
        let mut total: Option<Tensor> = None;
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
            let loss =
                cross_entropy(&head.logits, &label, weight.as_ref(), self.settings.ignore_index, self.average())?;
            let loss = loss.f_mul_scalar(head.weight)?;
            total = Some(match total {
                Some(sum) => sum.f_add(&loss)?,
                None => loss,
            });
        }
        total.ok_or_else(|| Error::value("the student returned no segmentation head"))
    }
}

fn main_head(output: &Output) -> Result<&Head> {
    output.heads.first().ok_or_else(|| Error::value("the student returned no segmentation head"))
}

/// Part of a [B,H,W] map that a region of the image covers.
fn crop_label(map_bhw: &Tensor, region: Option<BoxYX>) -> Result<Tensor> {
    match region {
        None => Ok(map_bhw.shallow_clone()),
        Some(b) => Ok(map_bhw.f_narrow(1, b.top, b.bottom - b.top)?.f_narrow(2, b.left, b.right - b.left)?),
    }
}

/// Checks ranks, sizes, dtypes, devices and, on the host, class ids; gives label and mask as [B,H,W].
fn check_batch(batch: &Batch, settings: &Settings) -> Result<Batch> {
    check_rank(&batch.source, 4, "source image", "[B,3,H,W]")?;
    check_float(&batch.source, "source image")?;
    check_rank(&batch.target, 4, "target image", "[B,3,H,W]")?;
    check_float(&batch.target, "target image")?;
    check_size(&batch.target, &batch.source.size(), "target image (the size of the source image)")?;
    check_device(&batch.target, "target image", &batch.source, "source image")?;
    let source_label = as_map(&batch.source_label, "source label", batch)?;
    check_integer(&source_label, "source label")?;
    // On an accelerator the look would make it wait: there a stray id counts as the ignored one or fails in the loss.
    if source_label.device() == Device::Cpu {
        check_ids(&source_label, settings.num_classes, settings.ignore_index, "source label")?;
    }
    let source_label = source_label.f_to_kind(Kind::Int64)?;
    let valid_mask = batch.valid_mask.as_ref().map(|mask| as_map(mask, "valid mask", batch)).transpose()?;
    Ok(Batch { source: batch.source.shallow_clone(), source_label, target: batch.target.shallow_clone(), valid_mask })
}

/// [B,1,H,W] or [B,H,W] as [B,H,W], of the images' size and device.
fn as_map(map: &Tensor, name: &str, batch: &Batch) -> Result<Tensor> {
    let size = batch.source.size();
    let map = if map.dim() == 4 && map.size()[1] == 1 { map.f_squeeze_dim(1)? } else { map.shallow_clone() };
    check_size(&map, &[size[0], size[2], size[3]], name)?;
    check_device(&map, name, &batch.source, "source image")?;
    Ok(map)
}
