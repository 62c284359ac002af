//! The distribution contrast on the host: lengths, logits, loss and gradient of a block of pixels while it lies in the cache.

use super::Moments;
use crate::error::Result;
use crate::host::math::exp_negative;
use crate::host::planes::{each_block, Row, Target, LANES, ROW};
use crate::host::slice::{output, view};
use multiversion::multiversion;
use tch::{Kind, Tensor};

/// A vector of magnitudes below this counts as zero, as in `UnitRows`.
const TINY: f32 = 1e-30;

/// What all blocks share: the factors of e and e^2 in the logits, temperature included.
struct Factors {
    classes: usize,
    channels: usize,
    /// [D][K]: factor of e.
    first: Vec<f32>,
    /// Of e^2.
    second: Vec<f32>,
    /// Twice that, for the derivative.
    steep: Vec<f32>,
    seen: Vec<bool>,
}

impl Factors {
    fn new(moments: &Moments<'_>, temperature: f64) -> Result<Self> {
        let (classes, channels) = (moments.mean_kd.size()[0] as usize, moments.mean_kd.size()[1] as usize);
        let (mean, var) = (view::<f32>(moments.mean_kd)?, view::<f32>(moments.var_kd)?);
        let seen = match moments.seen_k {
            None => vec![true; classes],
            Some(seen_k) => view::<u8>(&seen_k.f_to_kind(Kind::Uint8)?)?.iter().map(|&s| s != 0).collect(),
        };
        let by_channel = |values: &[f32], factor: f64| {
            let mut table = vec![0f32; channels * classes];
            for (k, row) in values.chunks_exact(channels).enumerate() {
                row.iter().enumerate().for_each(|(d, &v)| table[d * classes + k] = (f64::from(v) * factor) as f32);
            }
            table
        };
        let square = temperature * temperature;
        let (first, second) = (by_channel(&mean, 1.0 / temperature), by_channel(&var, 0.5 / square));
        Ok(Self { classes, channels, first, second, steep: by_channel(&var, 1.0 / square), seen })
    }
}

/// Sum of the losses of all pixels whose label is not negative, and the gradient [B,D,H,W] of sum / count.
pub fn sweep(
    embedding_bdhw: &Tensor,
    label_bhw: &Tensor,
    moments: &Moments<'_>,
    temperature: f64,
    count: f64,
    with_gradient: bool,
) -> Result<(f64, Option<Tensor>)> {
    let size = embedding_bdhw.size();
    let pixels = (size[2] * size[3]) as usize;
    let factors = Factors::new(moments, temperature)?;
    let embedding = view::<f32>(embedding_bdhw)?;
    let label = view::<i64>(label_bhw)?;
    let mut gradient = output::<f32>(if with_gradient { &size } else { &[0] })?;
    let target = Target::new(&mut gradient, factors.channels, pixels);
    let scale = (1.0 / count) as f32;
    let parts = each_block(
        size[0] as usize,
        pixels,
        || (vec![ROW; factors.channels], vec![ROW; factors.classes], vec![ROW; factors.channels]),
        |(rows, scores, slope), block| {
            let label = block.of(&label, pixels);
            if label.iter().all(|&id| id < 0) {
                if with_gradient {
                    // SAFETY: this task alone has this block.
                    (0..factors.channels).for_each(|d| unsafe { target.write(block, d, &ROW) });
                }
                return 0.0;
            }
            block.gather(&embedding, pixels, rows);
            let inverse = normalise(rows);
            logits(rows, &factors.first, &factors.second, factors.classes, scores);
            for (scores, _) in scores.iter_mut().zip(&factors.seen).filter(|(_, &seen)| !seen) {
                scores.fill(f32::NEG_INFINITY);
            }
            let sum = losses(scores, label, scale);
            if with_gradient {
                backward(rows, scores, &factors.first, &factors.steep, &inverse, slope);
                for (d, row) in slope.iter().enumerate() {
                    // SAFETY: this task alone has this block.
                    unsafe { target.write(block, d, row) };
                }
            }
            sum
        },
    );
    Ok((parts.iter().sum(), with_gradient.then(|| gradient.into_tensor())))
}

/// Scales the pixels of a block to length one; returns 1 / length, 0 for pixels that count as zero.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn normalise(rows: &mut [Row]) -> Row {
    let (mut peak, mut sum) = (ROW, ROW);
    for row in rows.iter() {
        for i in 0..LANES {
            let size = row[i].abs();
            peak[i] = if size > peak[i] { size } else { peak[i] };
            sum[i] = row[i].mul_add(row[i], sum[i]);
        }
    }
    // Squares of ordinary embeddings are far from the ends of f32; others are scaled by their peak first.
    let ordinary = peak.iter().all(|&p| p == 0.0 || (1e-12..1e15).contains(&p));
    let mut first = [1f32; LANES];
    if !ordinary {
        for i in 0..LANES {
            first[i] = if peak[i] < TINY { 0.0 } else { 1.0 / peak[i] };
        }
        sum = ROW;
        for row in rows.iter_mut() {
            for i in 0..LANES {
                row[i] *= first[i];
                sum[i] = row[i].mul_add(row[i], sum[i]);
            }
        }
    }
    let mut inverse = ROW;
    for i in 0..LANES {
        inverse[i] = if sum[i] == 0.0 { 0.0 } else { 1.0 / sum[i].sqrt() };
    }
    for row in rows.iter_mut() {
        for i in 0..LANES {
            row[i] *= inverse[i];
        }
    }
    for i in 0..LANES {
        inverse[i] *= first[i];
    }
    inverse
}

/// Adds up e mean + e^2 var = e (mean + e var) over channels, two at a time.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn logits(rows: &[Row], first: &[f32], second: &[f32], classes: usize, out: &mut [Row]) {
    out.fill(ROW);
    let mut pairs = rows.chunks_exact(2).zip(first.chunks_exact(2 * classes).zip(second.chunks_exact(2 * classes)));
    for (rows, (first, second)) in &mut pairs {
        let (e0, e1) = (&rows[0], &rows[1]);
        for (k, sum) in out.iter_mut().enumerate() {
            let (m0, m1, s0, s1) = (first[k], first[classes + k], second[k], second[classes + k]);
            for i in 0..LANES {
                let part = e0[i].mul_add(e0[i].mul_add(s0, m0), sum[i]);
                sum[i] = e1[i].mul_add(e1[i].mul_add(s1, m1), part);
            }
        }
    }
    if rows.len() % 2 == 1 {
        let (d, e) = (rows.len() - 1, &rows[rows.len() - 1]);
        for (k, sum) in out.iter_mut().enumerate() {
            let (m, s) = (first[d * classes + k], second[d * classes + k]);
            for i in 0..LANES {
                sum[i] = e[i].mul_add(e[i].mul_add(s, m), sum[i]);
            }
        }
    }
}

/// Sum of the losses; leaves scale (softmax - one-hot) in `scores`, 0 for pixels without a label.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn losses(scores: &mut [Row], label: &[i64], scale: f32) -> f64 {
    let mut peak = [f32::NEG_INFINITY; LANES];
    for row in scores.iter() {
        for i in 0..LANES {
            peak[i] = if row[i] > peak[i] { row[i] } else { peak[i] };
        }
    }
    let mut gap = ROW;
    for (i, &id) in label.iter().enumerate() {
        if id >= 0 {
            gap[i] = peak[i] - scores[id as usize][i];
        }
    }
    let mut sum = ROW;
    for row in scores.iter_mut() {
        for i in 0..LANES {
            row[i] = exp_negative(row[i] - peak[i]);
            // exp_negative stops at the smallest normal number: unseen classes must not weigh even that.
            row[i] = if row[i] < 2e-38 { 0.0 } else { row[i] };
            sum[i] += row[i];
        }
    }
    let (mut total, mut factor) = (0f64, ROW);
    for (i, &id) in label.iter().enumerate() {
        if id >= 0 {
            total += f64::from(sum[i].ln() + gap[i]);
            factor[i] = scale / sum[i];
        }
    }
    for row in scores.iter_mut() {
        for i in 0..LANES {
            row[i] = if factor[i] == 0.0 { 0.0 } else { row[i] * factor[i] };
        }
    }
    for (i, &id) in label.iter().enumerate() {
        if id >= 0 {
            scores[id as usize][i] -= scale;
        }
    }
    total
}

/// Gradient by the embedding before it was scaled: the part of sum_k g_k (mean_k + e var_k) across e, over the length.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn backward(rows: &[Row], scores: &[Row], first: &[f32], steep: &[f32], inverse: &Row, slope: &mut [Row]) {
    let (classes, mut along) = (scores.len(), ROW);
    for (d, (e, out)) in rows.iter().zip(slope.iter_mut()).enumerate() {
        let (first, steep) = (&first[d * classes..(d + 1) * classes], &steep[d * classes..(d + 1) * classes]);
        let mut sum = ROW;
        let mut pairs = scores.chunks_exact(2).zip(first.chunks_exact(2).zip(steep.chunks_exact(2)));
        for (g, (m, s)) in &mut pairs {
            let (g0, g1, m0, m1, s0, s1) = (&g[0], &g[1], m[0], m[1], s[0], s[1]);
            for i in 0..LANES {
                let part = g0[i].mul_add(e[i].mul_add(s0, m0), sum[i]);
                sum[i] = g1[i].mul_add(e[i].mul_add(s1, m1), part);
            }
        }
        if classes % 2 == 1 {
            let (g, m, s) = (&scores[classes - 1], first[classes - 1], steep[classes - 1]);
            for i in 0..LANES {
                sum[i] = g[i].mul_add(e[i].mul_add(s, m), sum[i]);
            }
        }
        for i in 0..LANES {
            along[i] = e[i].mul_add(sum[i], along[i]);
        }
        *out = sum;
    }
    for (row, out) in rows.iter().zip(slope.iter_mut()) {
        for i in 0..LANES {
            out[i] = (out[i] - row[i] * along[i]) * inverse[i];
        }
    }
}
