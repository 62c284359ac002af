//! Structure of the target (ProDA, equation 9): both views of a pixel lie alike among the prototypes.

use crate::error::Result;
use crate::group::{part_of_mean, Group};
use crate::host::fused;
use crate::host::planes::{each_block, Row, Target, LANES, ROW};
use crate::host::slice::{output, view};
use crate::prototypes::distance::{soften, Prototypes};
use crate::prototypes::{check_rows, check_seen, log_weights_ops};
use crate::shape::{check_device, check_float, check_positive, check_size};
use crate::surrogate::{attach_dot, compute_kind, wants_grad};
use multiversion::multiversion;
use tch::{Kind, Tensor};

/// Mean over valid pixels of KL(z || z') with z, z' the softmax over classes of -distance / temperature of the teacher's and
/// the student's features [B,D,H,W]. Only the student's features get a gradient. `valid_bhw`: pixels that are not 0 count;
/// none: all. Without a pixel that counts a zero that keeps the graph.
pub fn prototype_consistency(
    group: &dyn Group,
    feat_student_bdhw: &Tensor,
    feat_teacher_bdhw: &Tensor,
    proto_kd: &Tensor,
    temperature: f64,
    valid_bhw: Option<&Tensor>,
    seen_k: Option<&Tensor>,
) -> Result<Tensor> {
    let student = feat_student_bdhw;
    check_rows(student, "feat_student_bdhw", proto_kd, "proto_kd")?;
    check_float(feat_teacher_bdhw, "feat_teacher_bdhw")?;
    check_size(feat_teacher_bdhw, &student.size(), "feat_teacher_bdhw (the shape of feat_student_bdhw)")?;
    check_device(feat_teacher_bdhw, "feat_teacher_bdhw", student, "feat_student_bdhw")?;
    check_seen(seen_k, proto_kd, "proto_kd")?;
    check_positive(temperature, "temperature")?;
    let size = student.size();
    let valid = match valid_bhw {
        None => None,
        Some(valid) => {
            check_size(valid, &[size[0], size[2], size[3]], "valid_bhw (the grid of feat_student_bdhw)")?;
            check_device(valid, "valid_bhw", student, "feat_student_bdhw")?;
            Some(valid.f_detach()?.f_ne(0)?)
        }
    };
    let kind = compute_kind(student)?;
    if student.numel() == 0 {
        return Ok(student.f_sum(kind)?);
    }
    let (teacher, proto) = (feat_teacher_bdhw.f_detach()?, proto_kd.f_detach()?);
    let loss = if kind == Kind::Float && fused(&[student]) {
        on_host(student, &teacher, &proto, temperature, valid.as_ref(), seen_k)?
    } else {
        let z = log_weights_ops(&teacher.f_to_kind(kind)?, &proto, temperature, seen_k)?;
        let other = log_weights_ops(student, &proto, temperature, seen_k)?;
        // p log p is 0 where p is, but log p may be -inf there.
        let probability = z.f_exp()?;
        let term = probability.f_mul(&z.f_sub(&other)?)?;
        let term = term.f_where_scalarother(&probability.f_gt(0.0)?, 0.0)?;
        let term = term.f_sum_dim_intlist(1i64, false, kind)?;
        match &valid {
            None => term.f_mean(kind)?,
            Some(valid) => {
                let count = valid.f_sum(Kind::Int64)?.f_clamp_min(1)?.f_to_kind(kind)?;
                term.f_where_scalarother(valid, 0.0)?.f_sum(kind)?.f_div(&count)?
            }
        }
    };
    match &valid {
        None => Ok(loss), // processes have equally many pixels
        Some(valid) => part_of_mean(group, &loss, || Ok(valid.f_sum(Kind::Int64)?)),
    }
}

fn on_host(
    student_bdhw: &Tensor,
    teacher_bdhw: &Tensor,
    proto_kd: &Tensor,
    temperature: f64,
    valid_bhw: Option<&Tensor>,
    seen_k: Option<&Tensor>,
) -> Result<Tensor> {
    let size = student_bdhw.size();
    let pixels = (size[2] * size[3]) as usize;
    let (student, teacher) = (view::<f32>(student_bdhw)?, view::<f32>(teacher_bdhw)?);
    let proto = Prototypes::new(&[&student, &teacher], proto_kd, temperature, seen_k)?;
    let (channels, classes) = (proto.channels, proto.classes);
    let valid = valid_bhw.map(|valid| view::<u8>(&valid.f_to_kind(Kind::Uint8)?)).transpose()?;
    let count = match &valid {
        Some(valid) => valid.iter().filter(|&&v| v != 0).count().max(1),
        None => size[0] as usize * pixels,
    } as f64;
    let with_gradient = wants_grad(student_bdhw)?;
    let mut gradient = output::<f32>(if with_gradient { &size } else { &[0] })?;
    let target = Target::new(&mut gradient, channels, pixels);
    let parts = each_block(
        size[0] as usize,
        pixels,
        || (vec![ROW; channels], [vec![ROW; classes], vec![ROW; classes], vec![ROW; classes]]),
        |(rows, [z, distance, other]), block| {
            let share = match &valid {
                None => {
                    let mut share = ROW;
                    share[..block.len].fill(1.0);
                    share
                }
                Some(valid) => {
                    let mut share = ROW;
                    share.iter_mut().zip(block.of(valid, pixels)).for_each(|(s, &v)| *s = f32::from(u8::from(v != 0)));
                    share
                }
            };
            block.gather(&teacher, pixels, rows);
            proto.distances(rows, z);
            soften(z, proto.temperature);
            block.gather(&student, pixels, rows);
            proto.distances(rows, distance);
            other.copy_from_slice(distance);
            soften(other, proto.temperature);
            let sum = divergence(z, distance, other, &share, proto.temperature);
            if with_gradient {
                pull(&proto, z, distance, other, &share, (1.0 / count) as f32);
                for (d, row) in rows.iter().enumerate() {
                    let mut out = ROW;
                    let own = &proto.by_channel[d * classes..(d + 1) * classes];
                    gather_pull(row, own, other, 1.0 / proto.scale, &mut out);
                    // SAFETY: this task alone has this block.
                    unsafe { target.write(block, d, &out) };
                }
            }
            sum
        },
    );
    let value = Tensor::f_from_slice(&[(parts.iter().sum::<f64>() / count) as f32])?.f_squeeze()?;
    if with_gradient {
        return attach_dot(value, student_bdhw, &gradient.into_tensor());
    }
    Ok(value)
}

/// Sum over pixels that count of KL(z || other). log other = -distance/t - logsumexp, so that it is finite where `other` is 0.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn divergence(z: &[Row], distance: &[Row], other: &[Row], share: &Row, temperature: f32) -> f64 {
    let mut sum = ROW;
    // The likeliest class of `other` gives its logsumexp: log other = log top + (least - distance) / t.
    let (mut least, mut top) = ([f32::INFINITY; LANES], ROW);
    for (distance, other) in distance.iter().zip(other) {
        for i in 0..LANES {
            least[i] = if distance[i] < least[i] { distance[i] } else { least[i] };
            top[i] = if other[i] > top[i] { other[i] } else { top[i] };
        }
    }
    for top in &mut top {
        *top = top.ln();
    }
    for (z, distance) in z.iter().zip(distance) {
        for i in 0..LANES {
            let log_other = top[i] + (least[i] - distance[i]) / temperature;
            sum[i] += if z[i] > 0.0 { z[i] * (z[i].ln() - log_other) } else { z[i] };
        }
    }
    let mut total = 0f64;
    for i in 0..LANES {
        total += if share[i] == 0.0 { 0.0 } else { f64::from(sum[i]) };
    }
    total
}

/// Leaves in `other` what each unit of (feature - prototype) is multiplied by in the gradient.
fn pull(proto: &Prototypes, z: &[Row], distance: &[Row], other: &mut [Row], share: &Row, scale: f32) {
    // KL's derivative by -distance_k / t is other_k - z_k; that of a distance is (f - eta) / distance, 0 at 0.
    for (other, z) in other.iter_mut().zip(z) {
        for i in 0..LANES {
            other[i] = if share[i] == 0.0 { 0.0 } else { (z[i] - other[i]) * scale / proto.temperature };
        }
    }
    let count = proto.seen.iter().filter(|&&seen| seen).count() as f32;
    let mut spread = ROW;
    for (row, _) in other.iter().zip(&proto.seen).filter(|(_, &seen)| !seen) {
        spread.iter_mut().zip(row).for_each(|(s, v)| *s += v / count.max(1.0));
    }
    for ((row, distance), &seen) in other.iter_mut().zip(distance).zip(&proto.seen) {
        for i in 0..LANES {
            let value = if seen && distance[i] > 0.0 { (row[i] + spread[i]) / distance[i] } else { 0.0 };
            row[i] = value;
        }
    }
}

/// One channel of the gradient: sum over classes of factor (f - eta).
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn gather_pull(row: &Row, proto_k: &[f32], factors: &[Row], back: f32, out: &mut Row) {
    let mut sum = ROW;
    for (factor, &proto) in factors.iter().zip(proto_k) {
        for i in 0..LANES {
            sum[i] = factor[i].mul_add(row[i] - proto, sum[i]);
        }
    }
    for i in 0..LANES {
        out[i] = sum[i] * back;
    }
}
