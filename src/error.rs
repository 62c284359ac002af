//! The one error type of the crate. Every message names the operation or argument, what was expected and what came.

use tch::{Device, TchError, Tensor};

/// Result of every fallible function in the crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong. `python/bindings.rs` maps each kind to one Python exception.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An argument's value is outside its domain (Python: `ValueError`).
    #[error("{0}")]
    Value(String),
    /// An argument has the wrong rank or size (Python: `pipa.ShapeError`, a `ValueError`).
    #[error("{0}")]
    Shape(String),
    /// An argument has the wrong dtype (Python: `pipa.DTypeError`, a `TypeError`).
    #[error("{0}")]
    DType(String),
    /// Two arguments lie on different devices (Python: `pipa.DeviceError`, a `ValueError`).
    #[error("{}", apart(name, &device_name(found), other_name, &device_name(other)))]
    Device { name: String, found: Tensor, other_name: String, other: Tensor },
    /// A loss is NaN or infinite (Python: `pipa.NonFiniteError`, an `ArithmeticError`).
    #[error("{0}")]
    NonFinite(String),
    /// libtorch refused an operation (Python: `RuntimeError`).
    #[error("{}", first_line(.0))]
    Torch(#[from] TchError),
    /// A file could not be read or written (Python: `OSError`).
    #[error("{path}: {source}")]
    Io { path: String, source: std::io::Error },
    /// A call back into the caller's code failed; the bindings raise the original exception again unchanged.
    #[error("{0}")]
    Caller(Box<dyn std::error::Error + Send + Sync>),
}

/// What [`Error::Device`] says, with the names of the devices.
pub fn apart(name: &str, device: &str, other_name: &str, other: &str) -> String {
    format!("{name} is on {device} but {other_name} is on {other}: move them to one device")
}

/// The device as torch writes it. tch knows four kinds and calls every other one (meta, XLA) MPS: the bindings ask Python.
fn device_name(tensor: &Tensor) -> String {
    match tensor.device() {
        Device::Cpu => "cpu".into(),
        Device::Cuda(index) => format!("cuda:{index}"),
        Device::Mps => "mps".into(),
        Device::Vulkan => "vulkan".into(),
    }
}

/// libtorch appends a C++ stack to its messages; the first line says what was wrong.
fn first_line(error: &TchError) -> String {
    let text = match error {
        TchError::Torch(text) => text.clone(),
        other => other.to_string(),
    };
    text.lines().next().unwrap_or("libtorch error without a message").to_string()
}

impl Error {
    pub fn value(message: impl Into<String>) -> Self {
        Self::Value(message.into())
    }
    pub fn shape(message: impl Into<String>) -> Self {
        Self::Shape(message.into())
    }
    pub fn dtype(message: impl Into<String>) -> Self {
        Self::DType(message.into())
    }
}
