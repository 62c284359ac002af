//! Cross entropy on the host in one sweep: resizing, softmax, loss, hits and gradient pixel by pixel, so that neither the
//! resized logits nor their gradient is ever stored. The memory used is that of the small gradient.
//!
//! Inside, a pixel's classes lie side by side, padded to whole vectors: interpolation and softmax then run over classes
//! without gathering.

use crate::error::Result;
use crate::host::math::exp_negative;
use crate::host::pool;
use crate::host::slice::{labels, output, view, Id};
use crate::with_labels;
use multiversion::multiversion;
use rayon::prelude::*;
use tch::Tensor;

/// Numbers per vector.
const LANES: usize = 8;
type Vector = [f32; LANES];
const ZERO: Vector = [0.0; LANES];
/// Vectors of one task's rows: they should stay in the second-level cache together with their gradient.
const TASK_VECTORS: usize = 1 << 13;

/// Sums over all pixels, and the gradient [B,C,h,w] of `loss` divided by the divisor.
pub struct Sweep {
    pub loss: f64,
    /// Pixels whose largest logit is the label's, if asked for.
    pub hits: u64,
    pub gradient: Option<Tensor>,
}

/// Where one output coordinate lies between two input coordinates (bilinear, corners not aligned).
#[derive(Clone, Copy)]
struct Tap {
    low: usize,
    high: usize,
    /// Weight of `high`.
    part: f32,
}

fn taps(from: usize, to: usize) -> Vec<Tap> {
    let scale = from as f32 / to as f32;
    (0..to)
        .map(|i| {
            let position = if from == to { i as f32 } else { ((i as f32 + 0.5) * scale - 0.5).max(0.0) };
            let low = (position as usize).min(from - 1);
            let part = position - low as f32;
            // A neighbour of weight 0 is not looked at: 0 times NaN would be NaN.
            Tap { low, high: if part > 0.0 { (low + 1).min(from - 1) } else { low }, part }
        })
        .collect()
}

/// Everything the tasks share.
struct Shape {
    classes: usize,
    /// Vectors that hold a pixel's classes.
    vectors: usize,
    height: usize,
    width: usize,
    rows: Vec<Tap>,
    columns: Vec<Tap>,
    ignore: i64,
    /// 1 over the divisor of the mean.
    scale: f32,
    with_gradient: bool,
    /// Whether `hits` is wanted: pixels of weight 0 must then be looked at too.
    with_hits: bool,
}

/// Ids must have been checked. `scale`: 1 over the divisor of the mean.
pub fn sweep(
    logits: &Tensor,
    label_bhw: &Tensor,
    weight_bhw: Option<&Tensor>,
    ignore: i64,
    scale: f64,
    with_gradient: bool,
    with_hits: bool,
) -> Result<Sweep> {
    let (size, full) = (logits.size(), label_bhw.size());
    let [classes, height, width] = [size[1] as usize, size[2] as usize, size[3] as usize];
    let shape = Shape {
        classes,
        vectors: classes.div_ceil(LANES),
        height,
        width,
        rows: taps(height, full[1] as usize),
        columns: taps(width, full[2] as usize),
        ignore,
        scale: scale as f32,
        with_gradient,
        with_hits,
    };
    let logits = view::<f32>(logits)?;
    let weight = weight_bhw.map(view::<f32>).transpose()?;
    let labels = labels(label_bhw)?;
    // Rows outermost: the rows of one task are then one piece.
    let stored = if with_gradient { size[0] } else { 0 };
    let mut gradient = output::<f32>(&[stored, size[2], size[1], size[3]])?;
    let (loss, hits) =
        with_labels!(labels, slice => sweep_images(&shape, &logits, slice, weight.as_deref(), &mut gradient));
    let gradient = match with_gradient {
        true => Some(gradient.into_tensor().f_permute([0, 2, 1, 3])?.f_contiguous()?),
        false => None,
    };
    Ok(Sweep { loss, hits, gradient })
}

/// What a task gives: its sums, and the gradient of the row below its own rows, which the next task owns.
struct Part {
    loss: f64,
    hits: u64,
    below: Vec<f32>,
}

fn sweep_images<L: Id>(
    shape: &Shape,
    logits: &[f32],
    label: &[L],
    weight: Option<&[f32]>,
    gradient: &mut [f32],
) -> (f64, u64) {
    let row = shape.classes * shape.width;
    let (small, large) = (row * shape.height, shape.rows.len() * shape.columns.len());
    let images = logits.len() / small;
    // A fixed number of rows, whatever the number of threads: sums are always taken in the same order.
    let rows = (TASK_VECTORS / (shape.vectors * shape.width)).clamp(1, shape.height);
    let tasks = shape.height.div_ceil(rows);
    let mut pieces: Vec<&mut [f32]> = if shape.with_gradient {
        gradient.chunks_mut(small).flat_map(|image| image.chunks_mut(rows * row)).collect()
    } else {
        (0..images * tasks).map(|_| Default::default()).collect()
    };
    let parts: Vec<Part> = pool::run(|| {
        let tasks = pieces.par_iter_mut().enumerate().map(|(i, piece)| {
            let (image, first) = (i / tasks, i % tasks * rows);
            let label = &label[image * large..(image + 1) * large];
            let weight = weight.map(|w| &w[image * large..(image + 1) * large]);
            let logits = &logits[image * small..(image + 1) * small];
            task(shape, logits, label, weight, first..(first + rows).min(shape.height), piece)
        });
        tasks.collect()
    });
    for (i, part) in parts.iter().enumerate() {
        if shape.with_gradient && (i + 1) % tasks != 0 {
            pieces[i + 1][..row].iter_mut().zip(&part.below).for_each(|(g, &b)| *g += b);
        }
    }
    (parts.iter().map(|p| p.loss).sum(), parts.iter().map(|p| p.hits).sum())
}

/// The output rows whose upper input row is one of `rows`.
fn task<L: Id>(
    shape: &Shape,
    logits: &[f32],
    label: &[L],
    weight: Option<&[f32]>,
    rows: std::ops::Range<usize>,
    gradient: &mut [f32],
) -> Part {
    let line = shape.vectors * shape.width;
    let held = (rows.end + 1).min(shape.height) - rows.start;
    let mut values = vec![ZERO; held * line];
    for (i, values) in values.chunks_exact_mut(line).enumerate() {
        let y = rows.start + i;
        for (x, pixel) in values.chunks_exact_mut(shape.vectors).enumerate() {
            for (c, value) in pixel.as_flattened_mut().iter_mut().enumerate() {
                // Padding repeats class 0: it changes no maximum, and the sum leaves it out.
                let c = if c < shape.classes { c } else { 0 };
                let logit = logits[(c * shape.height + y) * shape.width + x];
                *value = if logit == f32::NEG_INFINITY { LOWEST } else { logit };
            }
        }
    }
    let mut gradients = vec![ZERO; if shape.with_gradient { (held + 1) * line } else { 0 }];
    let (mut between, mut between_gradient) = (vec![ZERO; line], vec![ZERO; line]);
    let mut strip = vec![ZERO; STRIP * shape.vectors];
    let (mut loss, mut hits) = (0.0, 0);
    let columns = shape.columns.len();
    let start = shape.rows.partition_point(|t| t.low < rows.start);
    let end = shape.rows.partition_point(|t| t.low < rows.end);
    for y in start..end {
        let tap = shape.rows[y];
        let at = |row: usize| (row - rows.start) * line..(row - rows.start + 1) * line;
        blend(&values[at(tap.low)], &values[at(tap.high)], tap.part, &mut between);
        between_gradient.fill(ZERO);
        let label = &label[y * columns..(y + 1) * columns];
        let weight = weight.map(|w| &w[y * columns..(y + 1) * columns]);
        let mut sums = (0.0, 0);
        pixels(shape, &between, label, weight, &mut strip, &mut between_gradient, &mut sums);
        loss += sums.0;
        hits += sums.1;
        if shape.with_gradient {
            add(&mut gradients[at(tap.low)], &between_gradient, 1.0 - tap.part);
            add(&mut gradients[at(tap.high)], &between_gradient, tap.part);
        }
    }
    let mut below = Vec::new();
    if shape.with_gradient {
        let own = rows.len();
        for (i, out) in gradient.chunks_exact_mut(shape.classes * shape.width).enumerate() {
            untangle(shape, &gradients[i * line..(i + 1) * line], out);
        }
        below = vec![0f32; shape.classes * shape.width];
        untangle(shape, &gradients[own * line..(own + 1) * line], &mut below);
    }
    Part { loss, hits, below }
}

/// [w][padded classes] to [classes][w].
fn untangle(shape: &Shape, pixels: &[Vector], out: &mut [f32]) {
    let pixels = pixels.as_flattened();
    for (c, out) in out.chunks_exact_mut(shape.width).enumerate() {
        for (x, out) in out.iter_mut().enumerate() {
            *out = pixels[x * shape.vectors * LANES + c];
        }
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn blend(low: &[Vector], high: &[Vector], part: f32, out: &mut [Vector]) {
    for ((out, low), high) in out.iter_mut().zip(low).zip(high) {
        for i in 0..LANES {
            out[i] = (1.0 - part).mul_add(low[i], part * high[i]);
        }
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn add(sum: &mut [Vector], values: &[Vector], weight: f32) {
    for (sum, value) in sum.iter_mut().zip(values) {
        for i in 0..LANES {
            sum[i] = weight.mul_add(value[i], sum[i]);
        }
    }
}

/// Held in place of -inf, which a network gives as the logit of a class that cannot be: 0 times it is 0.
const LOWEST: f32 = -3e38;
/// A label whose logit is below this, and so made of that, has an infinite loss.
const IMPOSSIBLE: f32 = -1e30;

/// Pixels whose exponentials are taken in one loop: long enough to vectorise, short enough for the first-level cache.
const STRIP: usize = 32;

/// A pixel that counts.
#[derive(Clone, Copy, Default)]
struct Pixel {
    x: usize,
    class: usize,
    weight: f32,
    /// Largest logit minus the label's.
    gap: f32,
}

/// One output row. `row` and `gradient` are [w][classes]; `strip` is scratch space for STRIP pixels.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn pixels<L: Id>(
    shape: &Shape,
    row: &[Vector],
    label: &[L],
    weight: Option<&[f32]>,
    strip: &mut [Vector],
    gradient: &mut [Vector],
    sums: &mut (f64, u64),
) {
    let n = shape.vectors;
    // 0 for the padding of the last vector
    let mut last = ZERO;
    for (i, last) in last.iter_mut().enumerate() {
        *last = if (n - 1) * LANES + i < shape.classes { 1.0 } else { 0.0 };
    }
    let mut start = 0;
    while start < label.len() {
        let mut counted = [Pixel::default(); STRIP];
        let mut count = 0;
        while start < label.len() && count < STRIP {
            let weight = match weight {
                Some(weight) => weight[start],
                None => 1.0,
            };
            let id = label[start].id();
            if id != shape.ignore && (weight != 0.0 || shape.with_hits) {
                counted[count] = Pixel { x: start, class: id as usize, weight, gap: 0.0 };
                count += 1;
            }
            start += 1;
        }
        for (pixel, values) in counted[..count].iter_mut().zip(strip.chunks_exact_mut(n)) {
            let tap = shape.columns[pixel.x];
            let (low, high) = (&row[tap.low * n..tap.low * n + n], &row[tap.high * n..tap.high * n + n]);
            let (keep, part) = (1.0 - tap.part, tap.part);
            let mut peaks = [f32::NEG_INFINITY; LANES];
            for ((value, low), high) in values.iter_mut().zip(low).zip(high) {
                for i in 0..LANES {
                    value[i] = keep.mul_add(low[i], part * high[i]);
                }
                for i in 0..LANES {
                    peaks[i] = if value[i] > peaks[i] { value[i] } else { peaks[i] };
                }
            }
            let mut peak = peaks[0];
            for other in peaks {
                peak = if other > peak { other } else { peak };
            }
            let own = values[pixel.class / LANES][pixel.class % LANES];
            pixel.gap = if own < IMPOSSIBLE { f32::INFINITY } else { peak - own };
            if own == peak {
                let first = values.as_flattened().iter().position(|&v| v == peak);
                sums.1 += u64::from(first == Some(pixel.class));
            }
            for value in values.iter_mut() {
                for v in value.iter_mut() {
                    *v -= peak;
                }
            }
        }
        for value in strip[..count * n].as_flattened_mut() {
            *value = exp_negative(*value);
        }
        for (pixel, values) in counted[..count].iter().zip(strip.chunks_exact_mut(n)) {
            if pixel.weight == 0.0 {
                continue;
            }
            let mut partial = ZERO;
            for value in &values[..n - 1] {
                for i in 0..LANES {
                    partial[i] += value[i];
                }
            }
            for i in 0..LANES {
                partial[i] += values[n - 1][i] * last[i];
            }
            let sum = ((partial[0] + partial[4]) + (partial[1] + partial[5]))
                + ((partial[2] + partial[6]) + (partial[3] + partial[7]));
            sums.0 += f64::from((sum.ln() + pixel.gap) * pixel.weight);
            if !shape.with_gradient {
                continue;
            }
            let g = pixel.weight * shape.scale;
            let factor = g / sum;
            for value in values.iter_mut() {
                for v in value.iter_mut() {
                    *v *= factor;
                }
            }
            values[pixel.class / LANES][pixel.class % LANES] -= g;
            let tap = shape.columns[pixel.x];
            for (column, part) in [(tap.low, 1.0 - tap.part), (tap.high, tap.part)] {
                let gradient = &mut gradient[column * n..column * n + n];
                for (g, value) in gradient.iter_mut().zip(values.iter()) {
                    for i in 0..LANES {
                        g[i] = part.mul_add(value[i], g[i]);
                    }
                }
            }
        }
    }
}
