//! Autocast stops at the border. Native code chooses its dtypes itself: half precision in, float32 inside. Left on, a blur
//! would leave 8 bits of a picture, and a sum over the pixels of a class would overflow in float16. Networks that native
//! code calls run under the caller's autocast again; backward passes do not, as torch advises.

use pyo3::prelude::*;
use pyo3::sync::GILOnceCell;
use std::cell::Cell;

const DEVICES: [&str; 2] = ["cpu", "cuda"];

thread_local! {
    /// Where the code that called native code had autocast on.
    static CALLER: Cell<[bool; 2]> = const { Cell::new([false; 2]) };
}

/// What `resume` brings back.
pub struct Paused {
    on: [bool; 2],
    before: [bool; 2],
}

/// Turns autocast off on this thread.
pub fn pause(py: Python<'_>) -> PyResult<Paused> {
    static ASK: GILOnceCell<Py<PyAny>> = GILOnceCell::new();
    let ask = ASK.import(py, "torch", "is_autocast_enabled")?;
    let mut on = [false; 2];
    for (on, device) in on.iter_mut().zip(DEVICES) {
        *on = ask.call1((device,))?.extract()?;
    }
    switch(py, on, false)?;
    Ok(Paused { on, before: CALLER.replace(on) })
}

impl Paused {
    pub fn resume(self, py: Python<'_>) -> PyResult<()> {
        CALLER.set(self.before);
        switch(py, self.on, true)
    }
}

/// Runs `work` under the autocast of the code that called native code.
pub fn as_caller<R>(py: Python<'_>, work: impl FnOnce() -> PyResult<R>) -> PyResult<R> {
    let on = CALLER.get();
    switch(py, on, true)?;
    let result = work();
    switch(py, on, false)?;
    result
}

fn switch(py: Python<'_>, which: [bool; 2], to: bool) -> PyResult<()> {
    static SET: GILOnceCell<Py<PyAny>> = GILOnceCell::new();
    for (chosen, device) in which.into_iter().zip(DEVICES) {
        if chosen {
            SET.import(py, "torch", "set_autocast_enabled")?.call1((device, to))?;
        }
    }
    Ok(())
}
