//! The processes of a data-parallel training, as one iteration sees them.
//!
//! Every process holds an equal slice of a joined batch, in order of ranks, and gradients are averaged over processes
//! after the iteration. A loss that is a mean over something other than whole images must therefore be told what the
//! other processes have; that is all that is exchanged here, and nothing of it carries a gradient.

use crate::error::Result;
use tch::{Kind, Tensor};

/// Where in an iteration the processes meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Before anything is computed, with facts that must be equal everywhere.
    Begin,
    /// After the last backward pass, before the iteration counts as done.
    End,
}

/// All processes call the same methods in the same order. An error of one process reaches the others as an error of the
/// method they call next.
pub trait Group {
    /// Number of processes.
    fn world(&self) -> i64;
    /// Number of this process, from 0.
    fn rank(&self) -> i64;
    /// Sum over all processes of a tensor of one shape and dtype; detached. Nothing waits for an accelerator.
    fn sum(&self, tensor: &Tensor) -> Result<Tensor>;
    /// Tensors of one shape and dtype, joined along dimension 0 in order of ranks; detached.
    fn gather(&self, tensor: &Tensor) -> Result<Tensor>;
    /// Returns when all processes are here and none has failed. `facts` are compared, and named where they differ.
    fn meet(&self, place: Place, facts: &[(&str, u64)]) -> Result<()>;
}

/// A process of its own.
pub struct SingleProcess;

impl Group for SingleProcess {
    fn world(&self) -> i64 {
        1
    }
    fn rank(&self) -> i64 {
        0
    }
    fn sum(&self, tensor: &Tensor) -> Result<Tensor> {
        Ok(tensor.f_detach()?)
    }
    fn gather(&self, tensor: &Tensor) -> Result<Tensor> {
        Ok(tensor.f_detach()?)
    }
    fn meet(&self, _place: Place, _facts: &[(&str, u64)]) -> Result<()> {
        Ok(())
    }
}

/// `loss`, a mean over `count` (0-dim, int64) things of this process, as its part of the mean over the things of all
/// processes: the mean of the parts over processes is the joined mean, and so are their gradients.
pub fn part_of_mean(group: &dyn Group, loss: &Tensor, count: impl FnOnce() -> Result<Tensor>) -> Result<Tensor> {
    if group.world() == 1 {
        return Ok(loss.shallow_clone());
    }
    let count = count()?;
    let kind = loss.f_kind()?;
    let all = group.sum(&count)?.f_clamp_min(1)?.f_to_kind(kind)?;
    // As the mean itself divides: by at least 1.
    let own = count.f_clamp_min(1)?.f_to_kind(kind)?;
    Ok(loss.f_mul(&own.f_mul_scalar(group.world())?.f_div(&all)?)?)
}

/// Mean over processes of a tensor that each of them has computed from equally much.
pub fn mean(group: &dyn Group, tensor: &Tensor) -> Result<Tensor> {
    if group.world() == 1 {
        return Ok(tensor.shallow_clone());
    }
    Ok(group.sum(tensor)?.f_div_scalar(group.world())?)
}

/// Labels that do not fit `ignore_index`, counted: int64, 0-dim.
pub fn count_labelled(label: &Tensor, ignore_index: i64) -> Result<Tensor> {
    Ok(label.f_ne(ignore_index)?.f_sum(Kind::Int64)?)
}
