//! Bindings of prototypes, their losses and the class-distribution contrast. Documented in `pipa.functional`.

use super::bindings::{enter, T};
use crate::group::SingleProcess;
use crate::loss::distribution::{DistributionContrast, Moments};
use crate::loss::prototype_consistency as consistency;
use crate::loss::symmetric::SymmetricCrossEntropy;
use crate::prototypes;
use pyo3::prelude::*;

#[pyfunction]
fn prototype_weights(py: Python<'_>, feat: T, proto: T, temperature: f64, seen: Option<T>) -> PyResult<T> {
    enter(py, move || {
        let weight = prototypes::prototype_weights(&feat.0, &proto.0, temperature, seen.as_ref().map(|s| &s.0))?;
        Ok(T(weight.f_to_kind(feat.0.f_kind()?)?))
    })
}

#[pyfunction]
fn prototype_update(
    py: Python<'_>,
    proto: T,
    feat: T,
    label: T,
    momentum: f64,
    min_pixels: i64,
    ignore_index: i64,
) -> PyResult<T> {
    enter(py, move || {
        prototypes::prototype_update(&proto.0, &feat.0, &label.0, momentum, min_pixels, ignore_index).map(T)
    })
}

#[pyfunction]
fn rectified_label(py: Python<'_>, prob: T, weight: T) -> PyResult<(T, T)> {
    enter(py, move || {
        let (label, confidence) = prototypes::rectified_label(&prob.0, &weight.0)?;
        Ok((T(label), T(confidence)))
    })
}

#[pyfunction]
fn symmetric_cross_entropy(
    py: Python<'_>,
    logits: T,
    label: T,
    ce: f64,
    rce: f64,
    floor: f64,
    ignore_index: i64,
) -> PyResult<T> {
    enter(py, move || {
        SymmetricCrossEntropy { ce, rce, floor, ignore_index }.forward(&SingleProcess, &logits.0, &label.0, None).map(T)
    })
}

#[pyfunction]
fn prototype_consistency(
    py: Python<'_>,
    feat_student: T,
    feat_teacher: T,
    proto: T,
    temperature: f64,
    valid: Option<T>,
    seen: Option<T>,
) -> PyResult<T> {
    enter(py, move || {
        let (valid, seen) = (valid.as_ref().map(|v| &v.0), seen.as_ref().map(|s| &s.0));
        consistency::prototype_consistency(
            &SingleProcess,
            &feat_student.0,
            &feat_teacher.0,
            &proto.0,
            temperature,
            valid,
            seen,
        )
        .map(T)
    })
}

#[pyfunction]
#[allow(clippy::too_many_arguments)]
fn distribution_contrast(
    py: Python<'_>,
    embedding: T,
    label: T,
    mean: T,
    var: T,
    temperature: f64,
    ignore_index: i64,
    seen: Option<T>,
) -> PyResult<T> {
    enter(py, move || {
        let moments = Moments { mean_kd: &mean.0, var_kd: &var.0, seen_k: seen.as_ref().map(|s| &s.0) };
        DistributionContrast { temperature, ignore_index }
            .forward(&SingleProcess, &embedding.0, &label.0, &moments)
            .map(T)
    })
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(prototype_weights, m)?)?;
    m.add_function(wrap_pyfunction!(prototype_update, m)?)?;
    m.add_function(wrap_pyfunction!(rectified_label, m)?)?;
    m.add_function(wrap_pyfunction!(symmetric_cross_entropy, m)?)?;
    m.add_function(wrap_pyfunction!(prototype_consistency, m)?)?;
    m.add_function(wrap_pyfunction!(distribution_contrast, m)?)?;
    Ok(())
}
