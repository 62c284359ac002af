//! The teacher is an exponential moving average of the student: parameters only, buffers are left alone.

use crate::error::{Error, Result};
use crate::host::{self, pool};
use crate::shape::{check_float, check_size};
use multiversion::multiversion;
use rayon::prelude::*;
use tch::{Device, Kind, Tensor};

/// alpha_t = min(1 - 1/(t+1), alpha).
pub fn ema_alpha(iteration: i64, alpha: f64) -> f64 {
    (1.0 - 1.0 / (iteration as f64 + 1.0)).min(alpha)
}

/// teacher = alpha_t teacher + (1 - alpha_t) student, in place and outside any graph. At iteration 0 it copies.
pub fn ema_update(teacher: &[Tensor], student: &[Tensor], iteration: i64, alpha: f64) -> Result<()> {
    if iteration < 0 {
        return Err(Error::value(format!("iteration: expected at least 0, got {iteration}")));
    }
    if !(0.0..=1.0).contains(&alpha) {
        return Err(Error::value(format!("alpha: expected 0 to 1, got {alpha}")));
    }
    if teacher.len() != student.len() {
        let (t, s) = (teacher.len(), student.len());
        return Err(Error::shape(format!("ema_update: the teacher has {t} parameters, the student {s}")));
    }
    for (i, (t, s)) in teacher.iter().zip(student).enumerate() {
        check_float(t, &format!("teacher_params[{i}]"))?;
        check_float(s, &format!("student_params[{i}]"))?;
        check_size(s, &t.size(), &format!("student_params[{i}] (which must match the teacher's)"))?;
    }
    let alpha = ema_alpha(iteration, alpha);
    let (mut blocks, mut rest) = (Blocks::default(), Vec::new());
    for (t, s) in teacher.iter().zip(student) {
        if !blocks.take(t, s)? {
            rest.push((t, s));
        }
    }
    if blocks.overlap() {
        // Tied or shared storage: one after the other, as a loop over the parameters does it.
        rest = teacher.iter().zip(student).collect();
    } else {
        blocks.update(alpha);
    }
    tch::no_grad(|| rest.into_iter().try_for_each(|(t, s)| update_ops(t, s, alpha)))
}

fn update_ops(teacher: &Tensor, student: &Tensor, alpha: f64) -> Result<()> {
    let mut teacher = teacher.f_detach()?;
    let student = student.f_detach()?;
    if alpha == 0.0 {
        teacher.f_copy_(&student)?;
        return Ok(());
    }
    // Towards the host it waits: without, the values would be read before they are there.
    let go_on = teacher.device() != Device::Cpu;
    let student = student.f_to_device_(teacher.device(), teacher.f_kind()?, go_on, false)?;
    let _ = teacher.f_lerp_(&student, 1.0 - alpha)?;
    Ok(())
}

/// Pairs of host memory blocks, cut to about a megabyte for even sharing among threads.
#[derive(Default)]
struct Blocks {
    single: Vec<Block<f32>>,
    double: Vec<Block<f64>>,
    /// Byte ranges and whether they are written.
    ranges: Vec<(usize, usize, bool)>,
}

struct Block<F> {
    teacher: *mut F,
    student: *const F,
    len: usize,
}
// SAFETY: `Blocks::overlap` proves that no block written by one thread is seen by another; the caller of `ema_update`
// holds the tensors.
unsafe impl<F> Send for Block<F> {}
unsafe impl<F> Sync for Block<F> {}

const BLOCK: usize = 1 << 18;

impl Blocks {
    /// Whether the pair is plain host memory in one order (contiguous, or permuted alike and dense).
    fn take(&mut self, teacher: &Tensor, student: &Tensor) -> Result<bool> {
        let kind = teacher.f_kind()?;
        let plain = host::fused(&[teacher, student])
            && kind == student.f_kind()?
            && matches!(kind, Kind::Float | Kind::Double)
            && !teacher.is_sparse()
            && !student.is_sparse()
            && dense(teacher)
            && teacher.stride() == student.stride();
        if !plain || teacher.numel() == 0 {
            return Ok(plain);
        }
        match kind {
            Kind::Float => cut(&mut self.single, teacher, student),
            _ => cut(&mut self.double, teacher, student),
        }
        let bytes = teacher.numel() * kind.elt_size_in_bytes();
        for (tensor, written) in [(teacher, true), (student, false)] {
            let start = tensor.data_ptr() as usize;
            self.ranges.push((start, start + bytes, written));
        }
        Ok(true)
    }

    /// A written range meets another range.
    fn overlap(&mut self) -> bool {
        self.ranges.sort_unstable();
        let (mut end, mut written_end) = (0, 0);
        for &(start, stop, written) in &self.ranges {
            if start < written_end || (written && start < end) {
                return true;
            }
            end = end.max(stop);
            if written {
                written_end = written_end.max(stop);
            }
        }
        false
    }

    fn update(&self, alpha: f64) {
        pool::run(|| {
            self.single.par_iter().for_each(|b| {
                let (teacher, student) = b.slices();
                average(teacher, student, alpha as f32, (1.0 - alpha) as f32);
            });
            self.double.par_iter().for_each(|b| {
                let (teacher, student) = b.slices();
                average_double(teacher, student, alpha);
            });
        });
    }
}

impl<F> Block<F> {
    #[allow(clippy::mut_from_ref)]
    fn slices(&self) -> (&mut [F], &[F]) {
        // SAFETY: both point at `len` elements of live storage; see `Send` above for aliasing.
        unsafe {
            (std::slice::from_raw_parts_mut(self.teacher, self.len), std::slice::from_raw_parts(self.student, self.len))
        }
    }
}

/// The elements fill a block of memory without gaps or repeats, in whatever order of dimensions.
fn dense(tensor: &Tensor) -> bool {
    let mut dims: Vec<(i64, i64)> = tensor.stride().into_iter().zip(tensor.size()).filter(|&(_, n)| n != 1).collect();
    dims.sort_unstable();
    let mut expected = 1;
    dims.into_iter().all(|(stride, n)| {
        let fits = stride == expected;
        expected *= n;
        fits
    })
}

fn cut<F>(blocks: &mut Vec<Block<F>>, teacher: &Tensor, student: &Tensor) {
    let (t, s, n) = (teacher.data_ptr().cast::<F>(), student.data_ptr().cast::<F>(), teacher.numel());
    for start in (0..n).step_by(BLOCK) {
        // SAFETY: start < n, inside both storages.
        let (teacher, student) = unsafe { (t.add(start), s.add(start).cast_const()) };
        blocks.push(Block { teacher, student, len: BLOCK.min(n - start) });
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn average(teacher: &mut [f32], student: &[f32], keep: f32, take: f32) {
    if keep == 0.0 {
        return teacher.copy_from_slice(student);
    }
    for (t, &s) in teacher.iter_mut().zip(student) {
        *t = keep * *t + take * s;
    }
}

fn average_double(teacher: &mut [f64], student: &[f64], alpha: f64) {
    if alpha == 0.0 {
        return teacher.copy_from_slice(student);
    }
    teacher.iter_mut().zip(student).for_each(|(t, &s)| *t = alpha * *t + (1.0 - alpha) * s);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_storage_is_averaged_in_order() {
        let base = Tensor::f_ones([8], (Kind::Float, Device::Cpu)).unwrap();
        let student = Tensor::f_zeros([8], (Kind::Float, Device::Cpu)).unwrap();
        ema_update(&[base.shallow_clone(), base.shallow_clone()], &[student.shallow_clone(), student], 1, 0.999)
            .unwrap();
        assert_eq!(base.double_value(&[0]), 0.25);
    }

    #[test]
    fn mismatches_are_errors() {
        let a = Tensor::f_ones([2], (Kind::Float, Device::Cpu)).unwrap();
        let b = Tensor::f_ones([3], (Kind::Float, Device::Cpu)).unwrap();
        assert!(ema_update(&[a.shallow_clone()], &[], 1, 0.9).is_err());
        assert!(ema_update(&[a.shallow_clone()], &[b], 1, 0.9).is_err());
        assert!(ema_update(&[a.shallow_clone()], &[a.shallow_clone()], -1, 0.9).is_err());
        assert!(ema_update(&[], &[], 1, 1.5).is_err());
    }
}
