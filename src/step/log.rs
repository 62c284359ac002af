//! Named scalars of one iteration. Values stay on the device; nothing is read by the host here.

use super::networks::Networks;
use crate::error::{Error, Result};
use tch::{Device, Tensor};

/// What the iteration reports, in the order in which it was computed.
pub struct Log {
    entries: Vec<(String, Tensor)>,
    /// Also report the norm of the gradient that each term gives the student, and its encoder.
    gradients: bool,
    /// Read every loss and refuse NaN or infinity. Always true on the CPU, where reading costs nothing.
    check: bool,
}

impl Log {
    pub fn new(gradients: bool, check: bool) -> Self {
        Self { entries: Vec::new(), gradients, check }
    }

    pub fn scalar(&mut self, name: &str, value: &Tensor) -> Result<()> {
        self.entries.push((name.to_string(), value.f_detach()?));
        Ok(())
    }

    /// Reports a weighted loss term before its backward pass, so that a non-finite one never reaches a parameter.
    pub fn term(&mut self, networks: &mut dyn Networks, name: &str, loss: &Tensor, iteration: i64) -> Result<()> {
        if self.check || loss.device() == Device::Cpu {
            let value = loss.f_detach()?.f_double_value(&[])?;
            if !value.is_finite() {
                return Err(Error::NonFinite(format!(
                    "iteration {iteration}: the term '{name}' is {value}; no parameter was changed by it"
                )));
            }
        }
        self.scalar(&format!("loss_{name}"), loss)?;
        if self.gradients && loss.requires_grad() {
            let (student, encoder) = networks.gradient_norms(loss)?;
            self.scalar(&format!("grad_norm_{name}"), &student)?;
            if let Some(encoder) = encoder {
                self.scalar(&format!("encoder_grad_norm_{name}"), &encoder)?;
            }
        }
        Ok(())
    }

    /// Adds the total of all loss terms and gives the entries.
    pub fn finish(mut self) -> Result<Vec<(String, Tensor)>> {
        let mut total: Option<Tensor> = None;
        for (_, value) in self.entries.iter().filter(|(name, _)| name.starts_with("loss_")) {
            total = Some(match total {
                Some(sum) => sum.f_add(value)?,
                None => value.shallow_clone(),
            });
        }
        if let Some(total) = total {
            self.entries.push(("loss".to_string(), total));
        }
        Ok(self.entries)
    }
}
