//! The one entry into native code: releases the GIL, maps errors and turns panics into exceptions; and the tensor
//! wrapper that crosses it.

use super::autocast;
use crate::error::{apart, Error, Result};
use crate::resize::set_deterministic;
use pyo3::create_exception;
use pyo3::exceptions::{PyArithmeticError, PyOSError, PyRuntimeError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::GILOnceCell;
use pyo3_tch::PyTensor;
use std::panic::{catch_unwind, AssertUnwindSafe};
use tch::Tensor;

create_exception!(pipa, ShapeError, PyValueError, "An argument has the wrong rank or size.");
create_exception!(pipa, DTypeError, PyTypeError, "An argument has the wrong dtype.");
create_exception!(pipa, DeviceError, PyValueError, "Arguments lie on different devices.");
create_exception!(pipa, NonFiniteError, PyArithmeticError, "A loss is NaN or infinite.");

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = m.py();
    m.add("ShapeError", py.get_type::<ShapeError>())?;
    m.add("DTypeError", py.get_type::<DTypeError>())?;
    m.add("DeviceError", py.get_type::<DeviceError>())?;
    m.add("NonFiniteError", py.get_type::<NonFiniteError>())?;
    Ok(())
}

impl From<Error> for PyErr {
    fn from(error: Error) -> PyErr {
        let text = error.to_string();
        match error {
            Error::Value(_) => PyValueError::new_err(text),
            Error::Shape(_) => ShapeError::new_err(text),
            Error::DType(_) => DTypeError::new_err(text),
            Error::Device { name, found, other_name, other } => {
                DeviceError::new_err(apart(&name, &device_of(found), &other_name, &device_of(other)))
            }
            Error::NonFinite(_) => NonFiniteError::new_err(text),
            Error::Torch(_) => PyRuntimeError::new_err(text),
            Error::Io { .. } => PyOSError::new_err(text),
            Error::Caller(original) => match original.downcast::<PyErr>() {
                Ok(exception) => *exception,
                Err(_) => PyRuntimeError::new_err(text),
            },
        }
    }
}

/// The device of a tensor as torch itself writes it.
fn device_of(tensor: Tensor) -> String {
    Python::with_gil(|py| PyResult::Ok(T(tensor).into_pyobject(py)?.getattr("device")?.str()?.to_string()))
        .unwrap_or_else(|_| "another device".into())
}

impl From<PyErr> for Error {
    fn from(exception: PyErr) -> Error {
        Error::Caller(Box::new(exception))
    }
}

/// Runs `work` without the GIL and without autocast. Errors become exceptions; a panic (a bug) becomes a RuntimeError that `except Exception`
/// catches, instead of pyo3's PanicException, which it does not.
pub fn enter<T: Send>(py: Python<'_>, work: impl FnOnce() -> Result<T> + Send) -> PyResult<T> {
    set_deterministic(deterministic(py)?);
    let paused = autocast::pause(py)?;
    let outcome = py.allow_threads(|| catch_unwind(AssertUnwindSafe(work)));
    // What a hook of Python raised inside libtorch (of saved tensors, as checkpoints set them) comes back as an error without
    // words, and waits here.
    let raised = PyErr::take(py);
    paused.resume(py)?;
    match (outcome, raised) {
        (Ok(Err(Error::Torch(_))), Some(exception)) => Err(exception),
        (Ok(result), _) => result.map_err(PyErr::from),
        (Err(payload), _) => {
            let text = payload
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| payload.downcast_ref::<&str>().map(|s| (*s).to_string()))
                .unwrap_or_else(|| "panic without a message".to_string());
            Err(PyRuntimeError::new_err(format!("internal error in pipa: {}", text.lines().next().unwrap_or(""))))
        }
    }
}

/// Whether `torch.use_deterministic_algorithms` is on.
fn deterministic(py: Python<'_>) -> PyResult<bool> {
    static ASK: GILOnceCell<Py<PyAny>> = GILOnceCell::new();
    ASK.import(py, "torch", "are_deterministic_algorithms_enabled")?.call0()?.extract()
}

/// A tensor argument. Shares storage and autograd graph with the Python object.
pub struct T(pub Tensor);

impl<'py> FromPyObject<'py> for T {
    fn extract_bound(object: &Bound<'py, PyAny>) -> PyResult<Self> {
        match object.extract::<PyTensor>() {
            Ok(tensor) if tensor.0.f_kind().is_ok() => Ok(T(tensor.0)),
            Ok(tensor) => {
                // libtorch's newer dtypes, which tch has no names for. Unsigned ids are what a label reader gives.
                let dtype = object.getattr("dtype")?.str()?.to_string();
                match dtype.as_str() {
                    "torch.uint16" | "torch.uint32" | "torch.uint64" => {
                        tensor.0.f_to_kind(tch::Kind::Int64).map(T).map_err(|e| Error::from(e).into())
                    }
                    _ => Err(DTypeError::new_err(format!("tensors of dtype {dtype} are not supported"))),
                }
            }
            Err(_) => Err(PyTypeError::new_err(format!(
                "expected a torch.Tensor, got {}",
                object.get_type().qualname().map(|n| n.to_string()).unwrap_or_else(|_| "an object".into())
            ))),
        }
    }
}

/// A seed, which Python's integers may be too large or too small for.
pub struct Seed(pub u64);

impl<'py> FromPyObject<'py> for Seed {
    fn extract_bound(object: &Bound<'py, PyAny>) -> PyResult<Self> {
        object.extract().map(Seed).map_err(|_| {
            let found = object.repr().map_or_else(|_| "an object".into(), |text| text.to_string());
            PyValueError::new_err(format!("seed: expected a whole number from 0 to {}, got {found}", u64::MAX))
        })
    }
}

impl<'py> IntoPyObject<'py> for T {
    type Target = PyAny;
    type Output = Bound<'py, PyAny>;
    type Error = PyErr;

    fn into_pyobject(self, py: Python<'py>) -> PyResult<Self::Output> {
        // pyo3-tch turns a failed wrap into None: make that an error instead of a silent None.
        let object =
            PyTensor(self.0).into_pyobject(py).map_err(|e| PyRuntimeError::new_err(format!("tensor: {e:?}")))?;
        if object.is_none() {
            return Err(PyRuntimeError::new_err("a result tensor could not be handed to Python"));
        }
        Ok(object.into_any())
    }
}
