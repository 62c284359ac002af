//! All random draws of one iteration, made before it runs: the iteration itself is a pure function of them.

use super::settings::Settings;
use crate::augment::{AugmentDraw, AugmentRates, StrongAugment};
use crate::error::Result;
use crate::masking;
use crate::patches::{PatchPair, PatchSampler};
use crate::rng::Rng;

/// How ClassMix chooses classes.
#[derive(Clone, Debug)]
pub enum MixDraw {
    /// A fresh draw from this seed, made where the labels are, so that the host need not read them.
    Seed(u64),
    /// The pasted classes of each image, as recorded elsewhere.
    Classes(Vec<Vec<i64>>),
}

/// Draws of one iteration.
#[derive(Clone, Debug)]
pub struct Draws {
    pub mix: MixDraw,
    /// Jitter and blur of each mixed image.
    pub augment: Vec<AugmentDraw>,
    /// Crops of the patch term; none while it is off.
    pub patches: Option<PatchPair>,
    /// Uniform numbers of the block mask, [batch][rows * columns]; none while the term is off.
    pub mask: Option<Vec<Vec<f64>>>,
    /// Jitter and blur of each masked image.
    pub mask_augment: Vec<AugmentDraw>,
    /// Jitter and blur of each unmixed target image; none while no term looks at it.
    pub target_augment: Vec<AugmentDraw>,
}

impl Draws {
    /// Draws for a batch of `batch` images of `height` x `width` pixels.
    pub fn new(settings: &Settings, batch: usize, size: (i64, i64), patch_on: bool, rng: &mut Rng) -> Result<Self> {
        let (height, width) = size;
        let mix = MixDraw::Seed(rng.u64());
        let strong = AugmentRates {
            jitter_strength: settings.jitter_strength,
            jitter_probability: settings.jitter_probability,
            blur_probability: settings.blur_probability,
        };
        let augment = strong.draw(batch, rng);
        let patches = if patch_on { Some(patch_sampler(settings).draw(height, width, rng)?) } else { None };
        let (mask, mask_augment) = if settings.mask_weight > 0.0 {
            let (rows, columns) = masking::mask_grid(height, width, settings.mask_block)?;
            let cells = (rows * columns) as usize;
            let uniform = (0..batch).map(|_| (0..cells).map(|_| rng.uniform(0.0, 1.0)).collect()).collect();
            (Some(uniform), if settings.mask_augment { strong.draw(batch, rng) } else { Vec::new() })
        } else {
            (None, Vec::new())
        };
        // Last, so that trainings without these terms draw what they always drew.
        let s = settings;
        let unmixed = s.target_weight + s.structure_weight + s.regularizer_weight + s.distillation_weight > 0.0;
        let target_augment = if unmixed { strong.draw(batch, rng) } else { Vec::new() };
        Ok(Self { mix, augment, patches, mask, mask_augment, target_augment })
    }

    /// Draws of a joined batch, of which this process has slice `rank` of `world`, each of `batch` images. All processes
    /// draw all of it, from one stream: crops, and whether to jitter at all, are those of the whole batch.
    pub fn of_slice(
        settings: &Settings,
        (rank, world): (usize, usize),
        batch: usize,
        size: (i64, i64),
        patch_on: bool,
        rng: &mut Rng,
    ) -> Result<Self> {
        let mut draws = Self::new(settings, world * batch, size, patch_on, rng)?;
        for images in [&mut draws.augment, &mut draws.mask_augment, &mut draws.target_augment] {
            keep_slice(images, rank, batch);
        }
        if let Some(mask) = &mut draws.mask {
            keep_slice(mask, rank, batch);
        }
        Ok(draws)
    }
}

/// Leaves the entries of slice `rank`; a list without entries stays so.
fn keep_slice<T>(images: &mut Vec<T>, rank: usize, batch: usize) {
    images.truncate((rank + 1) * batch);
    images.drain(..(rank * batch).min(images.len()));
}

/// Jitter and blur of images with the settings' normalisation.
pub fn strong_augment(settings: &Settings) -> StrongAugment {
    StrongAugment { mean: settings.mean.clone(), std: settings.std.clone() }
}

fn patch_sampler(settings: &Settings) -> PatchSampler {
    PatchSampler {
        size: settings.patch_size,
        min_iou: settings.patch_iou.0,
        max_iou: settings.patch_iou.1,
        flip: settings.patch_flip,
        align: settings.patch_align,
    }
}
