//! Distances to prototypes and their softmax on the host, block by block: nothing larger than the result is stored.

use crate::error::Result;
use crate::host::math::exp_negative;
use crate::host::planes::{each_block, Row, Target, LANES, ROW};
use crate::host::pool;
use crate::host::slice::{output, view};
use multiversion::multiversion;
use rayon::prelude::*;
use tch::Tensor;

/// Prototypes as the kernels read them.
pub(crate) struct Prototypes {
    pub classes: usize,
    pub channels: usize,
    /// [D][K], scaled.
    pub by_channel: Vec<f32>,
    pub seen: Vec<bool>,
    /// Factor of features and prototypes that keeps squares within f32: a power of two, 1 for ordinary features.
    pub scale: f32,
    pub temperature: f32,
}

impl Prototypes {
    pub fn new(feats: &[&[f32]], proto_kd: &Tensor, temperature: f64, seen_k: Option<&Tensor>) -> Result<Self> {
        let (classes, channels) = (proto_kd.size()[0] as usize, proto_kd.size()[1] as usize);
        let proto = view::<f32>(proto_kd)?;
        let seen = match seen_k {
            None => vec![true; classes],
            Some(seen_k) => view::<u8>(&seen_k.f_to_kind(tch::Kind::Uint8)?)?.iter().map(|&s| s != 0).collect(),
        };
        let peak = feats.iter().map(|feat| peak(feat)).fold(peak(&proto), f32::max);
        let scale = if (1e-12..1e15).contains(&peak) || peak == 0.0 || !peak.is_finite() {
            1.0
        } else {
            2f32.powi((-peak.log2().round() as i32).clamp(-120, 120))
        };
        let mut by_channel = vec![0f32; channels * classes];
        for (k, row) in proto.chunks_exact(channels).enumerate() {
            for (d, value) in row.iter().enumerate() {
                by_channel[d * classes + k] = value * scale;
            }
        }
        Ok(Self { classes, channels, by_channel, seen, scale, temperature: temperature as f32 })
    }

    /// Distances [K] of a block to all prototypes, unscaled; an unseen class gets the mean of the seen ones.
    pub fn distances(&self, rows: &mut [Row], out: &mut [Row]) {
        if self.scale != 1.0 {
            rows.as_flattened_mut().iter_mut().for_each(|v| *v *= self.scale);
        }
        distances(rows, &self.by_channel, out);
        let back = 1.0 / self.scale;
        out.as_flattened_mut().iter_mut().for_each(|v| *v *= back);
        let count = self.seen.iter().filter(|&&seen| seen).count();
        if count < self.classes {
            let mut mean = ROW;
            for (row, _) in out.iter().zip(&self.seen).filter(|(_, &seen)| seen) {
                mean.iter_mut().zip(row).for_each(|(m, v)| *m += v / count as f32);
            }
            out.iter_mut().zip(&self.seen).filter(|(_, &seen)| !seen).for_each(|(row, _)| *row = mean);
        }
    }
}

/// Largest magnitude.
fn peak(values: &[f32]) -> f32 {
    pool::run(|| {
        let part = |part: &[f32]| part.iter().fold(0f32, |peak, v| if v.abs() > peak { v.abs() } else { peak });
        values.par_chunks(1 << 16).map(part).reduce(|| 0.0, f32::max)
    })
}

/// Weights [B,K,H,W] in f32.
pub fn weights_host(
    feat_bdhw: &Tensor,
    proto_kd: &Tensor,
    temperature: f64,
    seen_k: Option<&Tensor>,
) -> Result<Tensor> {
    let size = feat_bdhw.size();
    let feat = view::<f32>(feat_bdhw)?;
    let proto = Prototypes::new(&[&feat], proto_kd, temperature, seen_k)?;
    let pixels = (size[2] * size[3]) as usize;
    let mut weight = output::<f32>(&[size[0], proto.classes as i64, size[2], size[3]])?;
    let target = Target::new(&mut weight, proto.classes, pixels);
    each_block(
        size[0] as usize,
        pixels,
        || (vec![ROW; proto.channels], vec![ROW; proto.classes]),
        |(rows, weights), block| {
            block.gather(&feat, pixels, rows);
            proto.distances(rows, weights);
            soften(weights, proto.temperature);
            for (k, row) in weights.iter().enumerate() {
                // SAFETY: this task alone has this block.
                unsafe { target.write(block, k, row) };
            }
        },
    );
    Ok(weight.into_tensor())
}

/// Two channels at a time.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn distances(rows: &[Row], by_channel: &[f32], out: &mut [Row]) {
    let classes = out.len();
    out.fill(ROW);
    for (rows, proto) in rows.chunks_exact(2).zip(by_channel.chunks_exact(2 * classes)) {
        let (x0, x1) = (&rows[0], &rows[1]);
        for (k, sum) in out.iter_mut().enumerate() {
            let (p0, p1) = (proto[k], proto[classes + k]);
            for i in 0..LANES {
                let (gap0, gap1) = (x0[i] - p0, x1[i] - p1);
                sum[i] = gap1.mul_add(gap1, gap0.mul_add(gap0, sum[i]));
            }
        }
    }
    if rows.len() % 2 == 1 {
        let (x, proto) = (&rows[rows.len() - 1], &by_channel[(rows.len() - 1) * classes..]);
        for (sum, &p) in out.iter_mut().zip(proto) {
            for i in 0..LANES {
                sum[i] = (x[i] - p).mul_add(x[i] - p, sum[i]);
            }
        }
    }
    for value in out.as_flattened_mut() {
        *value = value.sqrt();
    }
}

/// softmax over classes of -distance / temperature, in place.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
pub(crate) fn soften(rows: &mut [Row], temperature: f32) {
    let mut least = [f32::INFINITY; LANES];
    for row in rows.iter() {
        for i in 0..LANES {
            least[i] = if row[i] < least[i] { row[i] } else { least[i] };
        }
    }
    let mut sum = ROW;
    for row in rows.iter_mut() {
        for i in 0..LANES {
            row[i] = exp_negative((least[i] - row[i]) / temperature);
            sum[i] += row[i];
        }
    }
    for row in rows.iter_mut() {
        for i in 0..LANES {
            row[i] /= sum[i];
        }
    }
}
