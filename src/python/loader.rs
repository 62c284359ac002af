//! `pipa._core.load_crop`: from files to the arrays of a training sample, without the GIL.

use super::bindings::enter;
use crate::error::Error;
use crate::host::loader::choice::Wanted;
use crate::host::loader::{self, IdTable, Image, Label};
use numpy::{IntoPyArray, PyArray2, PyArray3, PyReadonlyArray2, PyReadonlyArray3};
use pyo3::prelude::*;
use std::path::PathBuf;

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(load_crop, m)?)
}

/// The keys of the mapping; see `host::loader::Plan`.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct Plan {
    scale: Option<(usize, usize)>,
    ratio: Option<(f64, f64)>,
    keep_ratio: bool,
    margins: Option<[usize; 4]>,
    crop: (usize, usize),
    cat_max_ratio: f64,
    ignore: u8,
    fill: Option<[u8; 3]>,
    flip: Option<f64>,
}

#[derive(FromPyObject)]
enum ImageArgument<'py> {
    File(PathBuf),
    Pixels(PyReadonlyArray3<'py, u8>),
}

#[derive(FromPyObject)]
enum LabelArgument<'py> {
    File(PathBuf),
    Ids(PyReadonlyArray2<'py, u8>),
}

type Planes<'py> = Bound<'py, PyArray3<u8>>;
type Map<'py> = Option<Bound<'py, PyArray2<u8>>>;
type Size = (usize, usize);
type Loaded<'py> = (Planes<'py>, Map<'py>, Map<'py>, Size, Size, Option<Size>, bool, u64);

/// Load, resize, crop and flip one sample; None where a file is no ordinary PNG and another decoder is needed.
///
/// Returns (image [3, h, w] BGR, label [h, w], valid mask [h, w], stored size, resized size, scale, flipped, words
/// drawn). Pixels may be given instead of files. `table`: the train id of each stored id,
/// then a flag for each stored id that may occur.
/// `wanted`: (class, pixels it must exceed, tries).
#[pyfunction]
#[pyo3(signature = (name, image, label, plan, seed, table = None, wanted = None, bgr = true))]
#[allow(clippy::too_many_arguments)]
fn load_crop<'py>(
    py: Python<'py>,
    name: &str,
    image: ImageArgument<'py>,
    label: Option<LabelArgument<'py>>,
    plan: Plan,
    seed: Vec<u32>,
    table: Option<[u8; 512]>,
    wanted: Option<(u8, f64, usize)>,
    bgr: bool,
) -> PyResult<Option<Loaded<'py>>> {
    let plan = loader::Plan {
        scale: plan.scale,
        ratio: plan.ratio,
        keep_ratio: plan.keep_ratio,
        margins: plan.margins,
        crop: plan.crop,
        cat_max_ratio: plan.cat_max_ratio,
        ignore: plan.ignore,
        fill: plan.fill,
        flip: plan.flip,
    };
    if plan.crop.0 == 0 || plan.crop.1 == 0 {
        return Err(Error::value(format!("load_crop: crop must be positive, got {:?}", plan.crop)).into());
    }
    let table = table.map(|bytes| IdTable {
        train: std::array::from_fn(|id| bytes[id]),
        allowed: std::array::from_fn(|id| bytes[256 + id] != 0),
    });
    let image = match &image {
        ImageArgument::File(path) => Image::File(path.clone()),
        ImageArgument::Pixels(pixels) => Image::Pixels { pixels: pixels.as_array(), bgr },
    };
    if let Image::Pixels { pixels, .. } = &image {
        if pixels.dim().2 != 3 || pixels.is_empty() {
            return Err(Error::shape(format!("load_crop: expected pixels [H, W, 3], got {:?}", pixels.dim())).into());
        }
    }
    let label = match (&label, &table) {
        (None, _) => None,
        (Some(LabelArgument::Ids(ids)), _) => Some(Label::Ids(ids.as_array())),
        (Some(LabelArgument::File(path)), Some(table)) => Some(Label::File { path: path.clone(), table }),
        (Some(LabelArgument::File(_)), None) => {
            return Err(Error::value("load_crop: a label file needs the table of its ids").into())
        }
    };
    let wanted = wanted.map(|(class, need, tries)| Wanted { class, need, tries });
    let sample = enter(py, || loader::load(&image, label.as_ref(), &plan, &seed, wanted, name))?;
    Ok(sample.map(|sample| {
        (
            sample.image.into_pyarray(py),
            sample.label.map(|label| label.into_pyarray(py)),
            sample.valid.map(|valid| valid.into_pyarray(py)),
            sample.stored,
            sample.resized,
            sample.scale,
            sample.flipped,
            sample.words,
        )
    }))
}
