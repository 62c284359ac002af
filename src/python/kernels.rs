//! Pseudo-labels, mixing, augmentation, masks, teacher, segmentation losses and metrics. Documented in
//! `pipa.functional`.

use super::bindings::{enter, Seed, T};
use crate::augment::{self, AugmentDraw, AugmentRates, JitterDraw, StrongAugment};
use crate::choice::Choice;
use crate::group::SingleProcess;
use crate::host::{self, confusion, depthwise as convolution};
use crate::loss::feature_distance::{self, DistanceForm, FeatureDistance};
use crate::loss::segmentation::{self, Average};
use crate::masking;
use crate::mix::{self, ClassScope};
use crate::pseudo_label::PseudoLabel;
use crate::rng::Rng;
use crate::teacher;
use pyo3::prelude::*;
use tch::Tensor;

/// brightness, contrast, saturation, hue, order
type Jitter = (f64, f64, f64, f64, [usize; 4]);

fn jitter_draw((brightness, contrast, saturation, hue, order): Jitter) -> JitterDraw {
    JitterDraw { brightness, contrast, saturation, hue, order }
}

fn tensors(wrapped: Vec<T>) -> Vec<Tensor> {
    wrapped.into_iter().map(|t| t.0).collect()
}

#[pyfunction]
fn pseudo_label(
    py: Python<'_>,
    logits: T,
    threshold: f64,
    ignore_top: i64,
    ignore_bottom: i64,
    valid_mask: Option<T>,
) -> PyResult<(T, T)> {
    enter(py, move || {
        let settings = PseudoLabel { threshold, ignore_top, ignore_bottom };
        let (label, weight) = settings.forward(&SingleProcess, &logits.0, valid_mask.as_ref().map(|m| &m.0))?;
        Ok((T(label), T(weight)))
    })
}

#[pyfunction]
fn draw_classes(
    py: Python<'_>,
    label: T,
    num_classes: i64,
    ignore_index: i64,
    scope: &str,
    seed: Seed,
) -> PyResult<Vec<Vec<i64>>> {
    enter(py, move || {
        let (scope, rng) = (ClassScope::parse(scope, "scope")?, &mut Rng::new(seed.0));
        mix::draw_classes(&SingleProcess, &label.0, num_classes, ignore_index, scope, rng)
    })
}

#[pyfunction]
fn draw_class_mask(
    py: Python<'_>,
    label: T,
    num_classes: i64,
    ignore_index: i64,
    scope: &str,
    seed: Seed,
) -> PyResult<T> {
    enter(py, move || {
        let (scope, rng) = (ClassScope::parse(scope, "scope")?, &mut Rng::new(seed.0));
        mix::draw_class_mask(&SingleProcess, &label.0, num_classes, ignore_index, scope, rng).map(T)
    })
}

#[pyfunction]
fn class_mask(py: Python<'_>, label: T, classes_per_image: Vec<Vec<i64>>) -> PyResult<T> {
    enter(py, move || mix::class_mask(&label.0, &classes_per_image).map(T))
}

#[pyfunction]
fn class_mix(py: Python<'_>, mask: T, source: T, target: T) -> PyResult<T> {
    enter(py, move || mix::class_mix(&mask.0, &source.0, &target.0).map(T))
}

#[pyfunction]
fn gaussian_blur(py: Python<'_>, image: T, sigma: f64, kernel_size: (i64, i64)) -> PyResult<T> {
    enter(py, move || augment::gaussian_blur(&image.0, sigma, kernel_size).map(T))
}

#[pyfunction]
fn blur_kernel_size(height: i64, width: i64) -> (i64, i64) {
    augment::blur_kernel_size(height, width)
}

#[pyfunction]
fn color_jitter(py: Python<'_>, image: T, draws: Vec<Jitter>) -> PyResult<T> {
    enter(py, move || {
        let draws: Vec<JitterDraw> = draws.into_iter().map(jitter_draw).collect();
        augment::color_jitter(&image.0, &draws).map(T)
    })
}

#[pyfunction]
fn strong_augment(
    py: Python<'_>,
    image: T,
    draws: Vec<(Option<Jitter>, Option<f64>)>,
    mean: Vec<f64>,
    std: Vec<f64>,
) -> PyResult<T> {
    enter(py, move || {
        let draws: Vec<AugmentDraw> = draws
            .into_iter()
            .map(|(jitter, blur_sigma)| AugmentDraw { jitter: jitter.map(jitter_draw), blur_sigma })
            .collect();
        StrongAugment { mean, std }.apply(&image.0, &draws).map(T)
    })
}

#[pyfunction]
fn draw_augment(
    batch: usize,
    seed: Seed,
    jitter_strength: f64,
    jitter_probability: f64,
    blur_probability: f64,
) -> Vec<(Option<Jitter>, Option<f64>)> {
    let settings = AugmentRates { jitter_strength, jitter_probability, blur_probability };
    let draws = settings.draw(batch, &mut Rng::new(seed.0));
    let tuple = |j: JitterDraw| (j.brightness, j.contrast, j.saturation, j.hue, j.order);
    draws.into_iter().map(|d| (d.jitter.map(tuple), d.blur_sigma)).collect()
}

#[pyfunction]
fn block_mask(py: Python<'_>, uniform: T, ratio: f64, height: i64, width: i64) -> PyResult<T> {
    enter(py, move || masking::block_mask(&uniform.0, ratio, height, width).map(T))
}

#[pyfunction]
fn mask_grid(py: Python<'_>, height: i64, width: i64, block: i64) -> PyResult<(i64, i64)> {
    enter(py, move || masking::mask_grid(height, width, block))
}

#[pyfunction]
fn ema_update(
    py: Python<'_>,
    teacher_params: Vec<T>,
    student_params: Vec<T>,
    iteration: i64,
    alpha: f64,
) -> PyResult<()> {
    let (teacher_params, student_params) = (tensors(teacher_params), tensors(student_params));
    enter(py, move || teacher::ema_update(&teacher_params, &student_params, iteration, alpha))
}

#[pyfunction]
fn cross_entropy(
    py: Python<'_>,
    logits: T,
    label: T,
    weight: Option<T>,
    ignore_index: i64,
    average: &str,
) -> PyResult<T> {
    enter(py, move || {
        let weight = weight.as_ref().map(|w| &w.0);
        segmentation::cross_entropy(&logits.0, &label.0, weight, ignore_index, Average::parse(average, "average")?)
            .map(T)
    })
}

#[pyfunction]
fn accuracy(py: Python<'_>, logits: T, label: T, ignore_index: i64, average: &str) -> PyResult<T> {
    enter(py, move || {
        segmentation::accuracy(&logits.0, &label.0, ignore_index, Average::parse(average, "average")?).map(T)
    })
}

#[pyfunction]
fn downscale_label(
    py: Python<'_>,
    label: T,
    scale: i64,
    min_ratio: f64,
    num_classes: i64,
    ignore_index: i64,
) -> PyResult<T> {
    enter(py, move || feature_distance::downscale_label(&label.0, scale, min_ratio, num_classes, ignore_index).map(T))
}

#[pyfunction]
#[allow(clippy::too_many_arguments)]
fn feature_distance_loss(
    py: Python<'_>,
    feat: T,
    feat_imagenet: T,
    label: T,
    classes: Option<Vec<i64>>,
    min_ratio: f64,
    num_classes: i64,
    weight: f64,
    ignore_index: i64,
    form: &str,
) -> PyResult<T> {
    let form = DistanceForm::parse(form, "form")?;
    enter(py, move || {
        let settings = FeatureDistance { form, classes, min_ratio, num_classes, weight, ignore_index };
        settings.forward(&SingleProcess, &feat.0, &feat_imagenet.0, &label.0).map(T)
    })
}

#[pyfunction]
fn confusion_matrix(py: Python<'_>, prediction: T, label: T, num_classes: i64, ignore_index: i64) -> PyResult<T> {
    enter(py, move || confusion::confusion_matrix(&prediction.0, &label.0, num_classes, ignore_index).map(T))
}

#[pyfunction]
fn class_counts(py: Python<'_>, label: T, num_classes: i64, ignore_index: i64) -> PyResult<T> {
    enter(py, move || confusion::class_counts(&label.0, num_classes, ignore_index).map(T))
}

/// Depthwise 3x3 convolution on host memory; `mirrored` gives the gradient of the input from that of the output.
#[pyfunction]
fn depthwise(py: Python<'_>, map: T, weight: T, dilation: i64, mirrored: bool) -> PyResult<T> {
    enter(py, move || convolution::depthwise(&map.0, &weight.0, dilation, mirrored).map(T))
}

#[pyfunction]
fn depthwise_weight_gradient(
    py: Python<'_>,
    map: T,
    grad: T,
    size: usize,
    stride: usize,
    padding: usize,
    dilation: usize,
) -> PyResult<T> {
    let window = convolution::Window { size, stride, padding, dilation };
    enter(py, move || convolution::depthwise_weight_gradient(&map.0, &grad.0, window).map(T))
}

/// Sends CPU tensors to the libtorch path (False) or the fused host kernels (True, the default); for tests.
#[pyfunction]
fn _set_fused(on: bool) -> bool {
    host::set_fused(on)
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(pseudo_label, m)?)?;
    m.add_function(wrap_pyfunction!(draw_classes, m)?)?;
    m.add_function(wrap_pyfunction!(draw_class_mask, m)?)?;
    m.add_function(wrap_pyfunction!(class_mask, m)?)?;
    m.add_function(wrap_pyfunction!(class_mix, m)?)?;
    m.add_function(wrap_pyfunction!(gaussian_blur, m)?)?;
    m.add_function(wrap_pyfunction!(blur_kernel_size, m)?)?;
    m.add_function(wrap_pyfunction!(color_jitter, m)?)?;
    m.add_function(wrap_pyfunction!(strong_augment, m)?)?;
    m.add_function(wrap_pyfunction!(draw_augment, m)?)?;
    m.add_function(wrap_pyfunction!(block_mask, m)?)?;
    m.add_function(wrap_pyfunction!(mask_grid, m)?)?;
    m.add_function(wrap_pyfunction!(ema_update, m)?)?;
    m.add_function(wrap_pyfunction!(cross_entropy, m)?)?;
    m.add_function(wrap_pyfunction!(accuracy, m)?)?;
    m.add_function(wrap_pyfunction!(downscale_label, m)?)?;
    m.add_function(wrap_pyfunction!(feature_distance_loss, m)?)?;
    m.add_function(wrap_pyfunction!(confusion_matrix, m)?)?;
    m.add_function(wrap_pyfunction!(class_counts, m)?)?;
    m.add_function(wrap_pyfunction!(depthwise, m)?)?;
    m.add_function(wrap_pyfunction!(depthwise_weight_gradient, m)?)?;
    m.add_function(wrap_pyfunction!(_set_fused, m)?)?;
    Ok(())
}
