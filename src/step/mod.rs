//! One PiPa iteration (docs/method.md, steps 1-9): order, weights, warm-up and log. It sees networks only through
//! [`Networks`], so it runs without Python.

mod batch;
mod denoise;
mod draws;
mod log;
mod memory;
mod networks;
mod settings;
mod target;
#[cfg(test)]
mod tests;

pub use batch::Batch;
pub use draws::{Draws, MixDraw};
pub use memory::{ClassMemory, Prototypes};
pub use networks::{Head, Networks, Output, OwnLoss};
pub use settings::{Entry, PatchSource, Settings, Value};

use crate::anchors::AnchorSampler;
use crate::error::{Error, Result};
use crate::group::{count_labelled, part_of_mean, Group, Place};
use crate::loss::bank::MemoryBank;
use crate::loss::distribution::{DistributionContrast, Moments};
use crate::loss::feature_distance::FeatureDistance;
use crate::loss::pixel::{nearest, PixelContrast};
use crate::loss::segmentation::{accuracy, cross_entropy, cross_entropy_and_accuracy, Average};
use crate::patches::{BoxYX, PatchPair};
use crate::rng::Rng;
use crate::shape::check_rank;
use crate::surrogate::compute_kind;
use crate::teacher::ema_update;
use batch::check_batch;
use log::Log;
use std::hash::{DefaultHasher, Hash, Hasher};
use tch::{no_grad, Tensor};

/// The iteration with its state: settings, counter and random numbers.
pub struct Step {
    pub settings: Settings,
    /// Iterations done; also the t of the teacher's decay and of the warm-up.
    pub iteration: i64,
    pub rng: Rng,
    /// Features of earlier iterations, if the settings ask for them; made when their number of channels is known.
    pub bank: Option<MemoryBank>,
    /// Prototypes and class distributions, likewise.
    pub classes: ClassMemory,
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

/// Target side of the iteration (steps 5 and 6 of docs/method.md).
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
        Self { settings, iteration: 0, rng: Rng::new(seed), bank: None, classes: ClassMemory::default() }
    }

    /// Runs one iteration: updates the teacher and adds gradients to the student. The caller owns the optimiser.
    ///
    /// An error leaves counter, random numbers and memories as they were; the caller drops the gradients. The teacher
    /// has then followed the student already, and would do so again if the iteration were repeated.
    ///
    /// With several processes each runs its slice of a joined batch. The mean over processes of the gradients is that of one
    /// process with the joined batch, for every combination of settings; the caller averages them. Logged losses are
    /// this process's parts (their mean is the joined loss), that of the pixel term is the joined one already.
    /// Seed, settings and state are equal on all processes, and so is success: where one fails, all return an error.
    pub fn run(&mut self, group: &dyn Group, networks: &mut dyn Networks, batch: &Batch, call: Call) -> Result<Report> {
        let bank = self.bank.as_ref().map(MemoryBank::duplicate).transpose()?;
        let classes = self.classes.duplicate();
        let report = self.attempt(group, networks, batch, call);
        if report.is_err() {
            self.bank = bank;
            self.classes = classes;
        }
        report
    }

    fn attempt(&mut self, group: &dyn Group, networks: &mut dyn Networks, batch: &Batch, call: Call) -> Result<Report> {
        let batch = check_batch(batch, &self.settings)?;
        let size = (batch.source.size()[2], batch.source.size()[3]);
        let images = batch.source.size()[0];
        if group.world() > 1 {
            group.meet(Place::Begin, &self.facts(images, size))?;
        }
        // A failed iteration must not move the stream of random numbers: a retry then sees the same draws.
        let mut rng = self.rng.clone();
        let draws = match call.draws {
            Some(draws) => draws,
            None => {
                let slice = (group.rank() as usize, group.world() as usize);
                Draws::of_slice(&self.settings, slice, images as usize, size, self.patch_on(), &mut rng)?
            }
        };
        let mut log = Log::new(call.gradients, call.check_finite);

        let self_training = self.needs_target();
        if self_training {
            let (teacher, student) = networks.parameters()?;
            no_grad(|| ema_update(&teacher, &student, self.iteration, self.settings.alpha))?;
        }
        self.source_pass(group, networks, &batch, &mut log, &mut rng)?;
        let mixed =
            if self_training { Some(self.target_passes(group, networks, &batch, &draws, &mut log)?) } else { None };
        group.meet(Place::End, &[])?;

        self.rng = rng;
        self.iteration += 1;
        Ok(Report { scalars: log.finish()?, mixed })
    }

    /// What must be equal on all processes.
    fn facts(&self, images: i64, size: (i64, i64)) -> [(&'static str, u64); 6] {
        let digest = |text: String| {
            let mut hasher = DefaultHasher::new();
            text.hash(&mut hasher);
            hasher.finish()
        };
        [
            ("iteration", self.iteration as u64),
            ("images per process", images as u64),
            ("height", size.0 as u64),
            ("width", size.1 as u64),
            ("seed or state of the random numbers", digest(format!("{:?}", self.rng.state()))),
            ("settings", digest(format!("{:?}", self.settings))),
        ]
    }

    /// Whether any term looks at target images; without one this is source-only training.
    fn needs_target(&self) -> bool {
        let s = &self.settings;
        s.mix_weight > 0.0
            || s.mask_weight > 0.0
            || s.patch_weight > 0.0
            || self.distance_on_target()
            || self.target_pass_on()
    }

    fn distance_on_target(&self) -> bool {
        self.settings.feature_distance_target && self.settings.feature_distance_weight > 0.0
    }

    fn patch_on(&self) -> bool {
        self.settings.patch_weight > 0.0 && self.iteration >= self.settings.patch_warmup
    }

    /// Steps 2-4 of docs/method.md: source cross entropy, pixel contrast and ImageNet feature distance, in one backward pass.
    fn source_pass(
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
            // The joined loss, of which each process differentiates its own embeddings only: the mean over processes
            // would be a world-th of the gradient.
            total = total.f_add(&if group.world() > 1 { loss.f_mul_scalar(group.world())? } else { loss })?;
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
    fn pixel_term(
        &mut self,
        group: &dyn Group,
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
    fn distribution_term(
        &mut self,
        group: &dyn Group,
        networks: &mut dyn Networks,
        output: &Output,
        label_bhw: &Tensor,
    ) -> Result<Tensor> {
        let (features, region) = match &output.detail {
            Some((features, region)) => (features, Some(*region)),
            None => (&output.features, None),
        };
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

    /// The network's own loss where it has one, else the heads' cross entropy; and the accuracy of the main head.
    fn supervised(&self, group: &dyn Group, output: &Output, label_bhw: &Tensor) -> Result<(Tensor, Tensor)> {
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
    fn segmentation(
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
