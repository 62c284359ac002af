//! `pipa._core.label_*`: label files. Each call handles one file without the GIL, so that Python threads run in parallel.

use super::bindings::enter;
use crate::error::Error;
use crate::host::convert::{self, Summary};
use crate::host::labels::IdTable;
use crate::host::labels::Ids;
use crate::host::png::{self, Channel};
use numpy::ndarray::{Array2, Array3, ShapeError};
use numpy::{IntoPyArray, PyArray3, PyReadonlyArray2, PyUntypedArrayMethods};
use pyo3::prelude::*;
use std::path::PathBuf;

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(label_convert, m)?)?;
    m.add_function(wrap_pyfunction!(label_store, m)?)?;
    m.add_function(wrap_pyfunction!(label_summary, m)?)?;
    m.add_function(wrap_pyfunction!(png_size, m)?)?;
    m.add_function(wrap_pyfunction!(png_read_bgr, m)?)?;
    m.add_function(wrap_pyfunction!(label_read, m)?)?;
    Ok(())
}

/// Convert one label PNG to train ids; returns (height, width, [(id, pixels)]).
#[pyfunction]
#[pyo3(signature = (source, target, table, ignore = 255, red = false))]
fn label_convert(
    py: Python<'_>,
    source: PathBuf,
    target: PathBuf,
    table: Vec<(u32, u8)>,
    ignore: u8,
    red: bool,
) -> PyResult<Summary> {
    let channel = if red { Channel::Red } else { Channel::Only };
    enter(py, || convert::convert(&source, &target, &IdTable::new(&table, ignore)?, channel))
}

/// Write train ids (uint8 [H, W]) as a PNG; returns (height, width, [(id, pixels)]).
#[pyfunction]
fn label_store(py: Python<'_>, target: PathBuf, label: PyReadonlyArray2<'_, u8>) -> PyResult<Summary> {
    let (height, width) = (label.shape()[0], label.shape()[1]);
    let ids: Vec<u8> = label.as_array().iter().copied().collect();
    enter(py, || convert::store(&target, height, width, &ids))
}

/// Decode a whole label PNG; returns (height, width, [(id, pixels)]).
#[pyfunction]
fn label_summary(py: Python<'_>, path: PathBuf) -> PyResult<Summary> {
    enter(py, || convert::summary(&path))
}

/// (height, width) of a PNG from its header.
#[pyfunction]
fn png_size(py: Python<'_>, path: PathBuf) -> PyResult<(usize, usize)> {
    enter(py, || png::size(&path))
}

fn misshapen(error: ShapeError) -> Error {
    Error::shape(format!("decoded image: {error}"))
}

/// Pixels of an 8-bit RGB PNG, uint8 [H, W, 3] in BGR order; None for any other kind of PNG.
#[pyfunction]
fn png_read_bgr(py: Python<'_>, path: PathBuf) -> PyResult<Option<Bound<'_, PyArray3<u8>>>> {
    let image = enter(py, || {
        let decoded = png::read_bgr(&path)?;
        decoded.map(|(h, w, pixels)| Array3::from_shape_vec((h, w, 3), pixels).map_err(misshapen)).transpose()
    })?;
    Ok(image.map(|array| array.into_pyarray(py)))
}

enum Decoded {
    Narrow(Array2<u8>),
    Wide(Array2<u16>),
}

/// Ids of a grey or palette PNG as stored, uint8 or uint16 [H, W].
#[pyfunction]
fn label_read(py: Python<'_>, path: PathBuf) -> PyResult<Bound<'_, PyAny>> {
    let label = enter(py, || {
        let file = png::read(&path, Channel::Only)?;
        let shape = (file.height, file.width);
        Ok(match file.ids {
            Ids::U8(ids) => Decoded::Narrow(Array2::from_shape_vec(shape, ids).map_err(misshapen)?),
            Ids::U16(ids) => Decoded::Wide(Array2::from_shape_vec(shape, ids).map_err(misshapen)?),
        })
    })?;
    Ok(match label {
        Decoded::Narrow(array) => array.into_pyarray(py).into_any(),
        Decoded::Wide(array) => array.into_pyarray(py).into_any(),
    })
}
