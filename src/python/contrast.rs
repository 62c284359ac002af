//! Bindings of the contrastive losses, the choice of anchors and the geometry of patches.

use super::bindings::{enter, Seed, T};
use crate::anchors::AnchorSampler;
use crate::choice::Choice;
use crate::error::{Error, Result};
use crate::group::SingleProcess;
use crate::loss::bank::MemoryBank;
use crate::loss::contrast::{contrast, Anchors, Masks, Positive};
use crate::loss::patch::patch_contrast;
use crate::loss::patch_gated::{patch_contrast_gated, Gate, View};
use crate::loss::pixel::{PixelContrast, Sampling};
use crate::loss::pixel_official::{flat_rows, pixel_contrast_official};
use crate::patches::{BoxYX, PatchPair, PatchSampler};
use crate::rng::Rng;
use crate::shape::check_rank;
use pyo3::prelude::*;
use tch::{Kind, Tensor};

type Quad = (i64, i64, i64, i64);
type Pair = (Quad, Quad, bool, bool);

fn area((top, left, bottom, right): Quad) -> BoxYX {
    BoxYX { top, left, bottom, right }
}

fn quad(area: BoxYX) -> Quad {
    (area.top, area.left, area.bottom, area.right)
}

/// One settings object for the pixel loss and its sampler, as keyword arguments of Python.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct PixelSettings {
    temperature: f64,
    sampling: String,
    max_anchors: i64,
    max_per_class: i64,
    min_pixels: i64,
    ignore_index: i64,
}

impl PixelSettings {
    fn build(self) -> Result<PixelContrast> {
        let sampling = Sampling::parse(&self.sampling, "sampling")?;
        Ok(PixelContrast {
            temperature: self.temperature,
            sampling,
            anchors: AnchorSampler {
                max_anchors: self.max_anchors,
                max_per_class: self.max_per_class,
                min_pixels: self.min_pixels,
                ignore_index: self.ignore_index,
                per_image: false,
            },
        })
    }
}

/// `key` None: the anchors themselves. Either both labels or `index` say what is positive.
#[pyfunction]
#[pyo3(name = "contrast", signature = (anchor, key, anchor_label, key_label, index, temperature, exclude_self, tile))]
#[allow(clippy::too_many_arguments)]
fn contrast_py(
    py: Python<'_>,
    anchor: T,
    key: Option<T>,
    anchor_label: Option<T>,
    key_label: Option<T>,
    index: Option<T>,
    temperature: f64,
    exclude_self: bool,
    tile: Option<(i64, i64)>,
) -> PyResult<T> {
    enter(py, move || {
        let anchor = &anchor.0;
        let anchors = if key.is_some() { Anchors::Own(anchor) } else { Anchors::Keys(None) };
        let key = key.as_ref().map_or(anchor, |key| &key.0);
        check_rank(anchor, 2, "anchor_nd", "[N,D]")?;
        check_rank(key, 2, "key_md", "[M,D]")?;
        let positive = match (&anchor_label, &key_label, &index) {
            (Some(anchor_n), Some(key_m), None) => Positive::Class { anchor_n: &anchor_n.0, key_m: &key_m.0 },
            (None, None, Some(index_n)) => Positive::Index(&index_n.0),
            _ => return Err(Error::value("positive: expected (anchor_label_n, key_label_m) or index_n")),
        };
        let (n, m) = (anchor.size()[0], key.size()[0]);
        if exclude_self && n > m {
            return Err(Error::shape(format!(
                "exclude_self: key i must be anchor i, but there are {n} anchors and only {m} keys"
            )));
        }
        let own = exclude_self.then(|| Tensor::f_arange(n, (Kind::Int64, anchor.device()))).transpose()?;
        let masks = Masks { tile, ..Masks::default() };
        Ok(T(contrast(anchors, key, positive, own.as_ref(), temperature, masks)?))
    })
}

#[pyfunction]
fn pixel_contrast(
    py: Python<'_>,
    feat: T,
    label: T,
    temperature: f64,
    base_temperature: f64,
    formulation: String,
) -> PyResult<T> {
    enter(py, move || match formulation.as_str() {
        "official" => Ok(T(pixel_contrast_official(&feat.0, &label.0, temperature, base_temperature)?)),
        "paper" => {
            let (feat_nd, label_n) = flat_rows(&feat.0, &label.0)?;
            let own = Tensor::f_arange(label_n.size()[0], (Kind::Int64, label_n.device()))?;
            let positive = Positive::Class { anchor_n: &label_n, key_m: &label_n };
            Ok(T(contrast(Anchors::Keys(None), &feat_nd, positive, Some(&own), temperature, Masks::default())?))
        }
        other => Err(Error::value(format!("formulation: expected \"official\" or \"paper\", got {other:?}"))),
    })
}

/// The loss on maps. `rng` and `bank` (features, labels, positions) are state: the former comes back, the latter is
/// changed in place.
#[pyfunction]
fn pixel_contrast_map(
    py: Python<'_>,
    embedding: T,
    label: T,
    prediction: Option<T>,
    settings: PixelSettings,
    rng: [u64; 4],
    bank: Option<(T, T, T)>,
) -> PyResult<(T, [u64; 4])> {
    enter(py, move || {
        let loss = settings.build()?;
        let mut rng = Rng::restore(rng);
        let mut bank = bank.map(|(feat, label, next)| MemoryBank::from_state(feat.0, label.0, next.0)).transpose()?;
        let prediction = prediction.as_ref().map(|p| &p.0);
        let group = &SingleProcess;
        let value = loss.forward(group, &embedding.0, &label.0, prediction, &mut rng, bank.as_mut())?;
        Ok((T(value), rng.state()))
    })
}

#[pyfunction]
fn memory_bank(py: Python<'_>, classes: i64, capacity: i64, like: T) -> PyResult<(T, T, T)> {
    enter(py, move || {
        check_rank(&like.0, 4, "embedding_bdhw", "[B,D,H,W]")?;
        let kind = if like.0.f_kind()? == Kind::Double { Kind::Double } else { Kind::Float };
        let bank = MemoryBank::new(classes, capacity, like.0.size()[1], kind, like.0.device())?;
        Ok((T(bank.feat_sd), T(bank.label_s), T(bank.next_c)))
    })
}

#[pyfunction]
fn rng_state(seed: Seed, stream: u64) -> [u64; 4] {
    Rng::stream(seed.0, stream).state()
}

/// Flat positions of the chosen pixels, their validity, and the generator's state afterwards.
#[pyfunction]
#[allow(clippy::too_many_arguments)]
fn choose_anchors(
    py: Python<'_>,
    label: T,
    prediction: Option<T>,
    priority: Option<T>,
    max_anchors: i64,
    max_per_class: i64,
    min_pixels: i64,
    ignore_index: i64,
    per_image: bool,
    rng: [u64; 4],
) -> PyResult<(T, T, [u64; 4])> {
    enter(py, move || {
        let sampler = AnchorSampler { max_anchors, max_per_class, min_pixels, ignore_index, per_image };
        let mut rng = Rng::restore(rng);
        let prediction = prediction.as_ref().map(|p| &p.0);
        let anchors = match &priority {
            Some(priority) => sampler.choose(&label.0, prediction, &priority.0)?,
            None => sampler.draw(&label.0, prediction, &mut rng)?,
        };
        Ok((T(anchors.index_n), T(anchors.valid_n), rng.state()))
    })
}

#[pyfunction(name = "patch_contrast")]
#[allow(clippy::too_many_arguments)]
fn patch_contrast_py(
    py: Python<'_>,
    patch1: T,
    patch2: T,
    overlap1: Quad,
    overlap2: Quad,
    flip1: bool,
    flip2: bool,
    labels: Option<(T, T)>,
    temperature: f64,
) -> PyResult<T> {
    enter(py, move || {
        let (one, two) = (area(overlap1), area(overlap2));
        let labels = labels.as_ref().map(|(one, two)| (&one.0, &two.0));
        Ok(T(patch_contrast(&patch1.0, &patch2.0, one, two, flip1, flip2, labels, temperature)?))
    })
}

#[pyfunction(name = "patch_contrast_gated")]
#[allow(clippy::too_many_arguments)]
fn patch_contrast_gated_py(
    py: Python<'_>,
    feat1: T,
    feat2: T,
    bank: T,
    bank_label: T,
    label1: T,
    label2: T,
    conf1: T,
    conf2: T,
    temperature: f64,
    confidence: f64,
    chunk: i64,
) -> PyResult<(T, T)> {
    enter(py, move || {
        let one = View { feat_nd: &feat1.0, label_n: &label1.0, conf_n: &conf1.0 };
        let two = View { feat_nd: &feat2.0, label_n: &label2.0, conf_n: &conf2.0 };
        let gate = Gate { temperature, confidence, chunk };
        let (first, second) = patch_contrast_gated(one, two, &bank.0, &bank_label.0, &gate)?;
        Ok((T(first), T(second)))
    })
}

/// Boxes and flips of two crops, and the generator's state afterwards.
#[pyfunction]
#[allow(clippy::too_many_arguments)]
fn draw_patches(
    py: Python<'_>,
    height: i64,
    width: i64,
    size: (i64, i64),
    min_iou: f64,
    max_iou: f64,
    flip: bool,
    align: i64,
    rng: [u64; 4],
) -> PyResult<(Pair, [u64; 4])> {
    enter(py, move || {
        let mut rng = Rng::restore(rng);
        let pair = PatchSampler { size, min_iou, max_iou, flip, align }.draw(height, width, &mut rng)?;
        Ok(((quad(pair.box1), quad(pair.box2), pair.flip1, pair.flip2), rng.state()))
    })
}

#[pyfunction]
fn crop_patches(py: Python<'_>, image: T, box1: Quad, box2: Quad, flip1: bool, flip2: bool) -> PyResult<(T, T)> {
    enter(py, move || {
        let pair = PatchPair { box1: area(box1), box2: area(box2), flip1, flip2 };
        let (one, two) = pair.crop(&image.0)?;
        Ok((T(one), T(two)))
    })
}

#[pyfunction]
fn patch_overlap(
    py: Python<'_>,
    box1: Quad,
    box2: Quad,
    flip1: bool,
    flip2: bool,
    feature_size: (i64, i64),
) -> PyResult<(Quad, Quad)> {
    enter(py, move || {
        let pair = PatchPair { box1: area(box1), box2: area(box2), flip1, flip2 };
        let (one, two) = pair.overlap_on(feature_size.0, feature_size.1)?;
        Ok((quad(one), quad(two)))
    })
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(contrast_py, m)?)?;
    m.add_function(wrap_pyfunction!(pixel_contrast, m)?)?;
    m.add_function(wrap_pyfunction!(pixel_contrast_map, m)?)?;
    m.add_function(wrap_pyfunction!(memory_bank, m)?)?;
    m.add_function(wrap_pyfunction!(rng_state, m)?)?;
    m.add_function(wrap_pyfunction!(choose_anchors, m)?)?;
    m.add_function(wrap_pyfunction!(patch_contrast_py, m)?)?;
    m.add_function(wrap_pyfunction!(patch_contrast_gated_py, m)?)?;
    m.add_function(wrap_pyfunction!(draw_patches, m)?)?;
    m.add_function(wrap_pyfunction!(crop_patches, m)?)?;
    m.add_function(wrap_pyfunction!(patch_overlap, m)?)?;
    Ok(())
}
