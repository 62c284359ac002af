//! One PiPa iteration (docs/method.md, steps 1-9): order, weights, warm-up and log. It sees networks only through
//! [`Networks`], so it runs without Python.

mod batch;
mod denoise;
mod draws;
mod log;
mod memory;
mod networks;
mod settings;
mod source;
mod supervised;
mod target;
#[cfg(test)]
mod tests;

pub use batch::Batch;
pub use draws::{Draws, MixDraw};
pub use memory::{ClassMemory, Prototypes};
pub use networks::{Head, Networks, Output, OwnLoss};
pub use settings::{Entry, PatchSource, Settings, Value};

use crate::error::Result;
use crate::group::{Group, Place};
use crate::loss::bank::MemoryBank;
use crate::patches::PatchPair;
use crate::rng::Rng;
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
        let mixed = if self_training {
            Some(self.target_passes(group, networks, &batch, &draws, &mut log, &mut rng)?)
        } else {
            None
        };
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
}
