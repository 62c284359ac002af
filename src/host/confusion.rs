//! Counting on label maps: confusion matrix and pixels per class.

use super::pool;
use super::slice::{invalid_id, labels, Id, Labels};
use crate::error::{Error, Result};
use crate::shape::{check_integer, check_size};
use crate::with_labels;
use multiversion::multiversion;
use rayon::prelude::*;
use tch::Tensor;

/// Pixels per parallel task: large enough to pay for a table of its own, small enough to share out.
const CHUNK: usize = 1 << 18;

/// Maps are made of areas: where so many neighbours agree they count as one.
const RUN: usize = 16;

/// All values are equal. An array has a length known to the compiler: a few instructions compare it.
fn constant<T: Copy + PartialEq>(run: &[T; RUN]) -> bool {
    *run == [run[0]; RUN]
}

/// Place of an id in a table: the id itself below `n`, `n` for `ignore`, `n + 1` for strays.
fn place(id: i64, n: usize, ignore: i64) -> usize {
    if id == ignore {
        n
    } else if (id as u64) < n as u64 {
        id as usize
    } else {
        n + 1
    }
}

/// Counts of (label, prediction) pairs as i64 [C,C]: rows are labels, columns are predictions. Pixels whose label is
/// `ignore_index` do not count. Any shape, equal for both; any integer dtypes. An id outside the classes is an error.
pub fn confusion_matrix(prediction: &Tensor, label: &Tensor, num_classes: i64, ignore_index: i64) -> Result<Tensor> {
    check_integer(prediction, "prediction")?;
    check_integer(label, "label")?;
    check_size(prediction, &label.size(), "prediction (which must have the label's shape)")?;
    check_classes(num_classes)?;
    let counts = match (labels(prediction)?, labels(label)?) {
        (Labels::Byte(p), Labels::Byte(l)) => count_pairs(&p, &l, num_classes, ignore_index, byte_byte),
        (Labels::Byte(p), Labels::Long(l)) => count_pairs(&p, &l, num_classes, ignore_index, count_chunk),
        (Labels::Long(p), Labels::Byte(l)) => count_pairs(&p, &l, num_classes, ignore_index, long_byte),
        (Labels::Long(p), Labels::Long(l)) => count_pairs(&p, &l, num_classes, ignore_index, long_long),
    }?;
    Ok(Tensor::f_from_slice(&counts)?.f_view([num_classes, num_classes])?)
}

/// Four tables of counts of (label, prediction) pairs, side by side: an increment need not wait for the one before.
type Tables = [[u32; SLOTS]; 4];
/// Places of a table small enough for the nearest cache, and for 16-bit arithmetic, which vectorises.
const SLOTS: usize = 1 << 11;
/// Pixels whose slots are computed at once.
const BLOCK: usize = 256;
/// Adds the pairs of a chunk to the tables; arguments `classes` and `ignore` at the end.
type CountChunk<P, L> = fn(&mut Tables, &[P], &[L], u16, i64);

/// `confusion_matrix` on slices, row-major.
fn count_pairs<P: Id, L: Id>(
    prediction: &[P],
    label: &[L],
    classes: i64,
    ignore: i64,
    count: CountChunk<P, L>,
) -> Result<Vec<i64>> {
    // Two extra columns, for predictions outside the classes (and a label's ignored id, which is no class), and two
    // extra rows, for ignored and for invalid labels: no branch in the loop, and invalid ids are reported afterwards.
    let (n, width) = (classes as usize, classes as usize + 2);
    let total = if width * width <= SLOTS {
        count_small(prediction, label, classes as u16, ignore, count)
    } else {
        count_large(prediction, label, n, ignore)
    };
    if total[(n + 1) * width..].iter().any(|&c| c > 0) {
        return Err(invalid_id_error("label", invalid_id(label, classes, ignore), classes, ignore));
    }
    if (0..n).any(|row| total[row * width + n..(row + 1) * width].iter().any(|&c| c > 0)) {
        let counted = prediction.iter().zip(label).filter(|(_, l)| l.id() != ignore);
        let invalid = counted.map(|(p, _)| p.id()).find(|v| !(0..classes).contains(v));
        return Err(invalid_id_error("prediction", invalid, classes, ignore));
    }
    Ok((0..n).flat_map(|row| total[row * width..row * width + n].iter().copied()).collect())
}

fn count_small<P: Id, L: Id>(
    prediction: &[P],
    label: &[L],
    classes: u16,
    ignore: i64,
    count: CountChunk<P, L>,
) -> Vec<i64> {
    let size = (usize::from(classes) + 2).pow(2);
    let chunks = |(p, l): (&[P], &[L])| {
        let mut tables = [[0u32; SLOTS]; 4];
        count(&mut tables, p, l, classes, ignore);
        (0..size).map(|i| tables.iter().map(|table| i64::from(table[i])).sum()).collect()
    };
    pool::run(|| {
        let parts = prediction.par_chunks(CHUNK).zip(label.par_chunks(CHUNK)).map(chunks);
        parts.reduce(|| vec![0; size], added)
    })
}

#[inline(always)]
fn count_chunk<P: Id, L: Id>(tables: &mut Tables, prediction: &[P], label: &[L], classes: u16, ignore: i64) {
    let mut slots = [0u16; BLOCK];
    for (p, l) in prediction.chunks(BLOCK).zip(label.chunks(BLOCK)) {
        // A loop of its own, which vectorises. Predictions know no ignored id.
        for ((slot, &p), &l) in slots.iter_mut().zip(p).zip(l) {
            *slot = l.place(classes, ignore) * (classes + 2) + p.place(classes, i64::MIN);
        }
        count_slots(tables, &slots[..p.len()]);
    }
}

#[inline(always)]
fn count_slots([t0, t1, t2, t3]: &mut Tables, slots: &[u16]) {
    let runs = slots.chunks_exact(RUN);
    for &slot in runs.remainder() {
        t0[usize::from(slot) % SLOTS] += 1;
    }
    for run in runs {
        if run.try_into().is_ok_and(constant) {
            t0[usize::from(run[0]) % SLOTS] += RUN as u32;
            continue;
        }
        for four in run.chunks_exact(4) {
            t0[usize::from(four[0]) % SLOTS] += 1;
            t1[usize::from(four[1]) % SLOTS] += 1;
            t2[usize::from(four[2]) % SLOTS] += 1;
            t3[usize::from(four[3]) % SLOTS] += 1;
        }
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn byte_byte(tables: &mut Tables, prediction: &[u8], label: &[u8], classes: u16, ignore: i64) {
    count_chunk(tables, prediction, label, classes, ignore);
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn long_byte(tables: &mut Tables, prediction: &[i64], label: &[u8], classes: u16, ignore: i64) {
    count_chunk(tables, prediction, label, classes, ignore);
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn long_long(tables: &mut Tables, prediction: &[i64], label: &[i64], classes: u16, ignore: i64) {
    count_chunk(tables, prediction, label, classes, ignore);
}

fn count_large<P: Id, L: Id>(prediction: &[P], label: &[L], n: usize, ignore: i64) -> Vec<i64> {
    let width = n + 2;
    let size = width * width;
    let count = |mut table: Vec<i64>, (p, l): (&[P], &[L])| {
        for (&p, &l) in p.iter().zip(l) {
            // Predictions know no ignored id.
            table[place(l.id(), n, ignore) * width + place(p.id(), n, i64::MIN)] += 1;
        }
        table
    };
    let chunk = CHUNK.max(size);
    pool::run(|| {
        let chunks = prediction.par_chunks(chunk).zip(label.par_chunks(chunk));
        chunks.fold(|| vec![0; size], count).reduce(|| vec![0; size], added)
    })
}

fn added(mut a: Vec<i64>, b: Vec<i64>) -> Vec<i64> {
    a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
    a
}

fn invalid_id_error(name: &str, id: Option<i64>, classes: i64, ignore: i64) -> Error {
    let id = id.map_or_else(String::new, |id| format!("{id} "));
    Error::value(format!("{name}: id {id}is outside the {classes} classes (ignored id: {ignore})"))
}

/// Pixels per class of a label map of any shape and integer dtype, i64 [C]. Pixels of `ignore_index` do not count; any
/// other id outside the classes is an error.
pub fn class_counts(label: &Tensor, num_classes: i64, ignore_index: i64) -> Result<Tensor> {
    check_integer(label, "label")?;
    check_classes(num_classes)?;
    let label = labels(label)?;
    let counts = with_labels!(label, l => count_ids(l, num_classes, ignore_index))?;
    Ok(Tensor::f_from_slice(&counts)?)
}

/// `class_counts` on a slice.
pub fn count_ids<L: Id>(label: &[L], classes: i64, ignore: i64) -> Result<Vec<i64>> {
    // Two extra places, for ignored and for invalid ids.
    let n = classes as usize;
    let lane: [usize; 4] = std::array::from_fn(|i| (n + 2) * i);
    let slot = |l: L| place(l.id(), n, ignore);
    let total = pool::run(|| {
        label
            .par_chunks(CHUNK.max(n))
            .map(|chunk| {
                let mut table = vec![0i64; 4 * (n + 2)];
                let runs = chunk.chunks_exact(RUN);
                runs.remainder().iter().for_each(|&l| table[slot(l)] += 1);
                for run in runs {
                    let Ok(run) = <&[L; RUN]>::try_from(run) else { continue };
                    if constant(run) {
                        table[slot(run[0])] += RUN as i64;
                    } else {
                        run.iter().enumerate().for_each(|(i, &l)| table[slot(l) + lane[i % 4]] += 1);
                    }
                }
                (0..n + 2).map(|i| lane.iter().map(|lane| table[i + lane]).sum()).collect::<Vec<i64>>()
            })
            .reduce(|| vec![0; n + 2], added)
    });
    if total[n + 1] > 0 {
        return Err(invalid_id_error("label", invalid_id(label, classes, ignore), classes, ignore));
    }
    Ok(total[..n].to_vec())
}

fn check_classes(num_classes: i64) -> Result<()> {
    if (1..=65_536).contains(&num_classes) {
        return Ok(());
    }
    Err(Error::value(format!("num_classes: expected 1 to 65536, got {num_classes}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_counted_and_ignored_pixels_are_not() {
        let counts = count_pairs(&[0u8, 1, 1, 9, 0], &[0i64, 1, 0, 255, 1], 2, 255, count_chunk).unwrap();
        assert_eq!(counts, [1, 1, 1, 1]);
        let error = count_pairs(&[0u8, 0], &[0u8, 7], 2, 255, byte_byte).unwrap_err().to_string();
        assert!(error.contains("label: id 7"), "{error}");
        let error = count_pairs(&[3i64], &[0u8], 2, 255, long_byte).unwrap_err().to_string();
        assert!(error.contains("prediction: id 3"), "{error}");
    }

    #[test]
    fn classes_are_counted() {
        assert_eq!(count_ids(&[0u8, 2, 2, 255, 2], 3, 255).unwrap(), [1, 0, 3]);
        let areas: Vec<i64> = (0..100).map(|i| i / 40).collect();
        assert_eq!(count_ids(&areas, 3, 1).unwrap(), [40, 0, 20]);
        let error = count_ids(&[0u8, 7], 3, 255).unwrap_err().to_string();
        assert!(error.contains("label: id 7"), "{error}");
    }
}
