//! `pipa._core.toy_*`: the embedded domain pair as NumPy arrays.

use super::bindings::{enter, Seed};
use crate::error::{Error, Result};
use crate::toy::{self, Domain, Picture};
use numpy::ndarray::{Array2, Array3};
use numpy::{IntoPyArray, PyArray2, PyArray3};
use pyo3::prelude::*;

/// An image (H, W, 3) and its label (H, W).
type Pair<'py> = (Bound<'py, PyArray3<u8>>, Bound<'py, PyArray2<u8>>);

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add("TOY_CLASSES", toy::CLASSES.to_vec())?;
    m.add("TOY_PALETTE", toy::PALETTE.map(|[r, g, b]| (r, g, b)).to_vec())?;
    m.add("TOY_EDITION", toy::EDITION)?;
    m.add_function(wrap_pyfunction!(toy_draw, m)?)?;
    Ok(())
}

fn arrays(picture: Picture) -> Result<(Array3<u8>, Array2<u8>)> {
    let Picture { height, width, image, label } = picture;
    let wrong = |e: numpy::ndarray::ShapeError| Error::shape(format!("drawn picture: {e}"));
    Ok((
        Array3::from_shape_vec((height, width, 3), image).map_err(wrong)?,
        Array2::from_shape_vec((height, width), label).map_err(wrong)?,
    ))
}

/// Draws the given images of a domain, in parallel.
#[pyfunction]
fn toy_draw<'py>(
    py: Python<'py>,
    domain: &str,
    indices: Vec<u64>,
    seed: Seed,
    height: usize,
    width: usize,
) -> PyResult<Vec<Pair<'py>>> {
    let drawn = enter(py, || {
        let pictures = toy::draw_many(Domain::parse(domain)?, &indices, seed.0, height, width)?;
        pictures.into_iter().map(arrays).collect::<Result<Vec<_>>>()
    })?;
    Ok(drawn.into_iter().map(|(image, label)| (image.into_pyarray(py), label.into_pyarray(py))).collect())
}
