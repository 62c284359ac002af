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

/// Counts of (label, prediction) pairs as i64 [C,C]: rows are labels, columns are predictions. Pixels whose label is
/// `ignore_index` do not count. Any shape, equal for both; any integer dtypes. An id outside the classes is an error.
pub fn confusion_matrix(prediction: &Tensor, label: &Tensor, num_classes: i64, ignore_index: i64) -> Result<Tensor> {
    check_integer(prediction, "prediction")?;
    check_integer(label, "label")?;
    check_size(prediction, &label.size(), "prediction (which must have the label's shape)")?;
    if !(1..=65_536).contains(&num_classes) {
        return Err(Error::value(format!("num_classes: expected 1 to 65536, got {num_classes}")));
    }
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
                    if lanes == 4 {
                        let (t0, rest) = table.split_at_mut(size);
                        let (t1, rest) = rest.split_at_mut(size);
                        let (t2, t3) = rest.split_at_mut(size);
                        let (p4, l4) = (p.chunks_exact(4), l.chunks_exact(4));
                        for (&p, &l) in p4.remainder().iter().zip(l4.remainder()) {
                            t0[slot(p, l)] += 1;
                        }
                        for (p, l) in p4.zip(l4) {
                            t0[slot(p[0], l[0])] += 1;
                            t1[slot(p[1], l[1])] += 1;
                            t2[slot(p[2], l[2])] += 1;
                            t3[slot(p[3], l[3])] += 1;
                        }
                    } else {
                        for (&p, &l) in p.iter().zip(l) {
                            table[slot(p, l)] += 1;
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

/// Pixels per class of a label map; ids from `num` on are not counted.
pub fn class_counts(label: &[u8], num: usize) -> Vec<u64> {
    let total = pool::run(|| {
        label
            .par_chunks(CHUNK)
            .map(|chunk| {
                let mut lanes = [[0u32; 256]; 4];
                let quads = chunk.chunks_exact(4);
                quads.remainder().iter().for_each(|&v| lanes[0][v as usize] += 1);
                for quad in quads {
                    lanes.iter_mut().zip(quad).for_each(|(lane, &v)| lane[v as usize] += 1);
                }
                std::array::from_fn(|i| lanes.iter().map(|lane| u64::from(lane[i])).sum())
            })
            .reduce(|| [0u64; 256], |a, b| std::array::from_fn(|i| a[i] + b[i]))
    });
    (0..num).map(|i| total.get(i).copied().unwrap_or(0)).collect()
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
        assert_eq!(class_counts(&[0, 2, 2, 255, 2], 3), [1, 0, 3]);
        assert_eq!(class_counts(&[255; 5], 300)[255], 5);
    }
}
