//! Counting on label maps: confusion matrix and pixels per class.

use super::pool;
use super::slice::{labels, Id};
use crate::error::{Error, Result};
use crate::shape::{check_integer, check_size};
use crate::with_labels;
use rayon::prelude::*;
use tch::Tensor;

/// Pixels per parallel task: large enough to pay for a table of its own, small enough to share out.
const CHUNK: usize = 1 << 18;

/// Maps are made of areas: where so many neighbours agree they count as one.
const RUN: usize = 16;

/// All values are equal. Written without a branch, so that it vectorises.
fn constant<T: Id>(run: &[T]) -> bool {
    run.iter().fold(true, |same, &v| same & (v == run[0]))
}

/// Counts of (label, prediction) pairs as i64 [C,C]: rows are labels, columns are predictions. Pixels whose label is
/// `ignore_index` do not count. Any shape, equal for both; any integer dtypes. An id outside the classes is an error.
pub fn confusion_matrix(prediction: &Tensor, label: &Tensor, num_classes: i64, ignore_index: i64) -> Result<Tensor> {
    check_integer(prediction, "prediction")?;
    check_integer(label, "label")?;
    check_size(prediction, &label.size(), "prediction (which must have the label's shape)")?;
    check_classes(num_classes)?;
    let (prediction, label) = (labels(prediction)?, labels(label)?);
    let counts = with_labels!(prediction, p => with_labels!(label, l => count_pairs(p, l, num_classes, ignore_index)))?;
    Ok(Tensor::f_from_slice(&counts)?.f_view([num_classes, num_classes])?)
}

/// `confusion_matrix` on slices, row-major.
pub fn count_pairs<P: Id, L: Id>(prediction: &[P], label: &[L], classes: i64, ignore: i64) -> Result<Vec<i64>> {
    // One extra column for predictions outside the classes, two extra rows for ignored and for stray labels: no branch
    // in the loop, and strays are reported afterwards.
    let (n, width) = (classes as usize, classes as usize + 1);
    let size = (n + 2) * width;
    // Neighbours are mostly equal: alternating tables keep one increment from waiting for the one before.
    let lanes = if size <= 1 << 14 { 4 } else { 1 };
    let lane: [usize; 4] = std::array::from_fn(|i| size * (i % lanes));
    let column_of = |p: i64| if (p as u64) < classes as u64 { p as usize } else { n };
    let row_of = |l: i64| {
        let row = if (l as u64) < classes as u64 { l as usize } else { n + 1 };
        (if l == ignore { n } else { row }) * width
    };
    let columns: [usize; 256] = std::array::from_fn(|i| column_of(i as i64));
    let rows: [usize; 256] = std::array::from_fn(|i| row_of(i as i64));
    let slot = |p: P, l: L| {
        let column = if P::BYTE { columns[(p.id() & 255) as usize] } else { column_of(p.id()) };
        column + if L::BYTE { rows[(l.id() & 255) as usize] } else { row_of(l.id()) }
    };
    let chunk = CHUNK.max(size);
    let total = pool::run(|| {
        prediction
            .par_chunks(chunk)
            .zip(label.par_chunks(chunk))
            .fold(
                || vec![0u32; size * lanes],
                |mut table, (p, l)| {
                    let (p_runs, l_runs) = (p.chunks_exact(RUN), l.chunks_exact(RUN));
                    for (&p, &l) in p_runs.remainder().iter().zip(l_runs.remainder()) {
                        table[slot(p, l)] += 1;
                    }
                    for (p, l) in p_runs.zip(l_runs) {
                        if constant(p) & constant(l) {
                            table[slot(p[0], l[0])] += RUN as u32;
                            continue;
                        }
                        for (i, (&p, &l)) in p.iter().zip(l).enumerate() {
                            table[slot(p, l) + lane[i % 4]] += 1;
                        }
                    }
                    table
                },
            )
            .map(|table| {
                let mut sum = vec![0i64; size];
                for lane in table.chunks_exact(size) {
                    sum.iter_mut().zip(lane).for_each(|(s, &v)| *s += i64::from(v));
                }
                sum
            })
            .reduce(
                || vec![0i64; size],
                |mut a, b| {
                    a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
                    a
                },
            )
    });
    if total[(n + 1) * width..].iter().any(|&c| c > 0) {
        let stray = label.iter().map(|v| v.id()).find(|&v| v != ignore && !(0..classes).contains(&v));
        return Err(stray_error("label", stray, classes, ignore));
    }
    if (0..n).any(|row| total[row * width + n] > 0) {
        let counted = prediction.iter().zip(label).filter(|(_, l)| l.id() != ignore);
        let stray = counted.map(|(p, _)| p.id()).find(|v| !(0..classes).contains(v));
        return Err(stray_error("prediction", stray, classes, ignore));
    }
    Ok((0..n).flat_map(|row| total[row * width..row * width + n].iter().copied()).collect())
}

fn stray_error(name: &str, id: Option<i64>, classes: i64, ignore: i64) -> Error {
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
    // Two extra places, for ignored and for stray ids.
    let n = classes as usize;
    let lane: [usize; 4] = std::array::from_fn(|i| (n + 2) * i);
    let slot = |l: L| {
        let id = l.id();
        let place = if (id as u64) < classes as u64 { id as usize } else { n + 1 };
        if id == ignore {
            n
        } else {
            place
        }
    };
    let total = pool::run(|| {
        label
            .par_chunks(CHUNK.max(n))
            .map(|chunk| {
                let mut table = vec![0i64; 4 * (n + 2)];
                let runs = chunk.chunks_exact(RUN);
                runs.remainder().iter().for_each(|&l| table[slot(l)] += 1);
                for run in runs {
                    if constant(run) {
                        table[slot(run[0])] += RUN as i64;
                    } else {
                        run.iter().enumerate().for_each(|(i, &l)| table[slot(l) + lane[i % 4]] += 1);
                    }
                }
                (0..n + 2).map(|i| lane.iter().map(|lane| table[i + lane]).sum()).collect::<Vec<i64>>()
            })
            .reduce(|| vec![0; n + 2], |a, b| a.iter().zip(b).map(|(a, b)| a + b).collect())
    });
    if total[n + 1] > 0 {
        let stray = label.iter().map(|v| v.id()).find(|&v| v != ignore && !(0..classes).contains(&v));
        return Err(stray_error("label", stray, classes, ignore));
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
        let counts = count_pairs(&[0u8, 1, 1, 9, 0], &[0i64, 1, 0, 255, 1], 2, 255).unwrap();
        assert_eq!(counts, [1, 1, 1, 1]);
        let error = count_pairs(&[0u8, 0], &[0u8, 7], 2, 255).unwrap_err().to_string();
        assert!(error.contains("label: id 7"), "{error}");
        let error = count_pairs(&[3i64], &[0u8], 2, 255).unwrap_err().to_string();
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
