//! The only place that uses pyo3. Each submodule adds its functions to `pipa._core`.

mod autocast;
mod bindings;
mod contrast;
mod host;
mod kernels;
mod loader;
mod prototypes;
mod step;
mod toy;

use pyo3::prelude::*;

/// `_abi.py` finds this text in the file before it loads it. Exported, so that the linker keeps it.
#[no_mangle]
pub static PIPA_TORCH_BUILD: &str = concat!("pipa-torch-build=", env!("PIPA_TORCH_BUILD"), ";");

#[pymodule]
fn _core(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add("__version__", env!("CARGO_PKG_VERSION"))?;
    bindings::register(m)?;
    host::register(m)?;
    loader::register(m)?;
    toy::register(m)?;
    contrast::register(m)?;
    kernels::register(m)?;
    prototypes::register(m)?;
    step::register(m)?;
    Ok(())
}
