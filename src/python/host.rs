//! `pipa._core.label_*`: label files. Each call handles one file without the GIL, so that Python threads run in parallel.

use super::door::enter;
use crate::host::convert::{self, Summary};
use crate::host::labels::IdTable;
use crate::host::png::{self, Channel};
use numpy::{PyReadonlyArray2, PyUntypedArrayMethods};
use pyo3::prelude::*;
use std::path::PathBuf;

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(label_convert, m)?)?;
    m.add_function(wrap_pyfunction!(label_store, m)?)?;
    m.add_function(wrap_pyfunction!(label_summary, m)?)?;
    m.add_function(wrap_pyfunction!(png_size, m)?)?;
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
