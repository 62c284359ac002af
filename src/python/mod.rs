//! The only place that uses pyo3. Each submodule adds its functions to `pipa._core`.

mod bindings;
mod contrast;
mod host;
mod kernels;
mod loader;
mod prototypes;
mod step;
mod toy;

use pyo3::prelude::*;

#[pymodule]
fn _core(m: &Bound<'_, PyModule>) -> PyResult<()> {
    // `_abi.py` finds this text in the file before it loads it.
    const MARK: &str = concat!("pipa-torch-build=", env!("PIPA_TORCH_BUILD"), ";");
    m.add("TORCH_BUILD", MARK.trim_start_matches("pipa-torch-build=").trim_end_matches(';'))?;
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
