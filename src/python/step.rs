//! Bindings of the iteration: networks that are Python objects, and the step object.

use super::autocast;
use super::bindings::{enter, Seed, T};
use crate::augment::{AugmentDraw, JitterDraw};
use crate::error::{Error, Result};
use crate::group::{Group, Place, SingleProcess};
use crate::loss::bank::MemoryBank;
use crate::loss::distribution::ClassDistribution;
use crate::patches::{BoxYX, PatchPair};
use crate::rng::Rng;
use crate::step::{
    Batch, Call, Draws, Head, MixDraw, Networks, Output, OwnLoss, Prototypes, Report, Settings, Step, Value,
};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};
use tch::Tensor;

type Region = (i64, i64, i64, i64);

fn to_box(region: Region) -> BoxYX {
    BoxYX { top: region.0, left: region.1, bottom: region.2, right: region.3 }
}

fn from_box(b: BoxYX) -> Region {
    (b.top, b.left, b.bottom, b.right)
}

/// Calls the adapter object of `pipa.step`, taking the GIL for each call and only for that.
struct PyNetworks(Py<PyAny>);

impl PyNetworks {
    fn call<R>(
        &self,
        name: &str,
        arguments: Vec<Tensor>,
        read: impl FnOnce(Bound<'_, PyAny>) -> PyResult<R>,
    ) -> Result<R> {
        self.call_in(name, arguments, false, read)
    }

    fn call_in<R>(
        &self,
        name: &str,
        arguments: Vec<Tensor>,
        is_pass: bool,
        read: impl FnOnce(Bound<'_, PyAny>) -> PyResult<R>,
    ) -> Result<R> {
        Python::with_gil(|py| {
            let arguments = arguments.into_iter().map(|t| T(t).into_pyobject(py)).collect::<PyResult<Vec<_>>>()?;
            let arguments = PyTuple::new(py, arguments)?;
            let call = || self.0.bind(py).call_method1(name, arguments);
            read(if is_pass { autocast::as_caller(py, call)? } else { call()? })
        })
        .map_err(Error::from)
    }

    /// A pass of a network, under the autocast that the step was called with.
    fn pass<R>(
        &self,
        name: &str,
        arguments: Vec<Tensor>,
        read: impl FnOnce(Bound<'_, PyAny>) -> PyResult<R>,
    ) -> Result<R> {
        self.call_in(name, arguments, true, read)
    }

    fn tensors(&self, name: &str, argument: &Tensor) -> Result<Vec<Tensor>> {
        self.pass(name, vec![argument.shallow_clone()], |value| {
            Ok(value.extract::<Vec<T>>()?.into_iter().map(|t| t.0).collect())
        })
    }

    fn tensor(&self, name: &str, argument: &Tensor) -> Result<Tensor> {
        self.pass(name, vec![argument.shallow_clone()], |value| Ok(value.extract::<T>()?.0))
    }

    fn output(&self, name: &str, arguments: Vec<Tensor>) -> Result<Output> {
        self.pass(name, arguments, |value| Self::read_output(&value))
    }

    fn read_output(value: &Bound<'_, PyAny>) -> PyResult<Output> {
        type Heads = Vec<(T, Option<Region>, f64)>;
        let (heads, features, detail) = value.extract::<(Heads, Vec<T>, Option<(Vec<T>, Option<Region>)>)>()?;
        let own_loss = if value.hasattr("own_loss")? { value.getattr("own_loss")?.extract()? } else { None };
        Ok(Output {
            heads: heads
                .into_iter()
                .map(|(logits, region, weight)| Head { logits: logits.0, region: region.map(to_box), weight })
                .collect(),
            features: features.into_iter().map(|t| t.0).collect(),
            detail: detail.map(|(maps, region)| (maps.into_iter().map(|t| t.0).collect(), region.map(to_box))),
            own_loss: own_loss.map(own_loss_of),
        })
    }

    fn embedding(&self, name: &str, features: &[Tensor]) -> Result<Tensor> {
        self.pass(name, features.iter().map(Tensor::shallow_clone).collect(), |value| Ok(value.extract::<T>()?.0))
    }
}

/// A Python function from labels to a loss.
fn own_loss_of(function: Py<PyAny>) -> OwnLoss {
    Box::new(move |label_bhw| {
        Python::with_gil(|py| Ok(function.bind(py).call1((T(label_bhw.shallow_clone()),))?.extract::<T>()?.0))
            .map_err(|error: PyErr| Error::from(error))
    })
}

impl Networks for PyNetworks {
    fn student(&mut self, image_bchw: &Tensor) -> Result<Output> {
        self.output("student", vec![image_bchw.shallow_clone()])
    }
    fn student_tokens(&mut self, image_bchw: &Tensor, kept_b1hw: &Tensor) -> Result<Output> {
        self.output("student_tokens", vec![image_bchw.shallow_clone(), kept_b1hw.shallow_clone()])
    }
    fn student_features(&mut self, image_bchw: &Tensor) -> Result<Vec<Tensor>> {
        self.tensors("student_features", image_bchw)
    }
    fn student_maps(&mut self, image_bchw: &Tensor) -> Result<Vec<Tensor>> {
        self.tensors("student_maps", image_bchw)
    }
    fn teacher(&mut self, image_bchw: &Tensor) -> Result<Tensor> {
        self.tensor("teacher", image_bchw)
    }
    fn student_classified(&mut self, image_bchw: &Tensor) -> Result<(Output, Tensor)> {
        self.pass("student_classified", vec![image_bchw.shallow_clone()], |value| {
            let (output, map) = value.extract::<(Bound<'_, PyAny>, T)>()?;
            Ok((Self::read_output(&output)?, map.0))
        })
    }
    fn teacher_classified(&mut self, image_bchw: &Tensor) -> Result<(Tensor, Tensor)> {
        self.pass("teacher_classified", vec![image_bchw.shallow_clone()], |value| {
            let (logits, map) = value.extract::<(T, T)>()?;
            Ok((logits.0, map.0))
        })
    }
    fn teacher_features(&mut self, image_bchw: &Tensor) -> Result<Vec<Tensor>> {
        self.tensors("teacher_features", image_bchw)
    }
    fn initial(&mut self, image_bchw: &Tensor) -> Result<Tensor> {
        self.tensor("initial", image_bchw)
    }
    fn imagenet(&mut self, image_bchw: &Tensor) -> Result<Vec<Tensor>> {
        self.tensors("imagenet", image_bchw)
    }
    fn pixel_embedding(&mut self, features: &[Tensor]) -> Result<Tensor> {
        self.embedding("pixel_embedding", features)
    }
    fn patch_embedding(&mut self, features: &[Tensor]) -> Result<Tensor> {
        self.embedding("patch_embedding", features)
    }
    fn backward(&mut self, loss: &Tensor) -> Result<()> {
        self.call("backward", vec![loss.shallow_clone()], |_| Ok(()))
    }
    fn gradient_norms(&mut self, loss: &Tensor) -> Result<(Tensor, Option<Tensor>)> {
        self.call("gradient_norms", vec![loss.shallow_clone()], |value| {
            let (student, encoder) = value.extract::<(T, Option<T>)>()?;
            Ok((student.0, encoder.map(|t| t.0)))
        })
    }
    fn parameters(&mut self) -> Result<(Vec<Tensor>, Vec<Tensor>)> {
        self.call("parameters", vec![], |value| {
            let (teacher, student) = value.extract::<(Vec<T>, Vec<T>)>()?;
            Ok((teacher.into_iter().map(|t| t.0).collect(), student.into_iter().map(|t| t.0).collect()))
        })
    }
}

/// Calls the `pipa.Group` object of the step.
struct PyGroup {
    object: Py<PyAny>,
    world: i64,
    rank: i64,
}

impl PyGroup {
    fn new(object: Py<PyAny>) -> Result<Self> {
        let number = |name: &str| Python::with_gil(|py| object.bind(py).getattr(name)?.extract::<i64>());
        let (world, rank) = (number("world")?, number("rank")?);
        if !(0..world).contains(&rank) {
            return Err(Error::value(format!("group: expected rank in 0..world, got rank {rank} of {world}")));
        }
        Ok(Self { object, world, rank })
    }

    fn exchange(&self, name: &str, tensor: &Tensor) -> Result<Tensor> {
        Python::with_gil(|py| -> PyResult<Tensor> {
            Ok(self
                .object
                .bind(py)
                .call_method1(name, (T(tensor.f_detach().map_err(Error::from)?),))?
                .extract::<T>()?
                .0)
        })
        .map_err(Error::from)
    }
}

impl Group for PyGroup {
    fn world(&self) -> i64 {
        self.world
    }
    fn rank(&self) -> i64 {
        self.rank
    }
    fn sum(&self, tensor: &Tensor) -> Result<Tensor> {
        self.exchange("sum", tensor)
    }
    fn gather(&self, tensor: &Tensor) -> Result<Tensor> {
        self.exchange("gather", tensor)
    }
    fn meet(&self, place: Place, facts: &[(&str, u64)]) -> Result<()> {
        let place = match place {
            Place::Begin => "begin",
            Place::End => "end",
        };
        Python::with_gil(|py| -> PyResult<()> {
            self.object.bind(py).call_method1("meet", (place, facts.to_vec()))?;
            Ok(())
        })
        .map_err(Error::from)
    }
}

/// Native part of `pipa.PipaStep`: settings, counter, random numbers and memory bank.
#[pyclass(name = "Step", module = "pipa._core", frozen)]
struct PyStep(Mutex<Step>);

impl PyStep {
    /// The state. A network that asks for it in the middle of an iteration gets an error instead of a deadlock.
    fn state(&self) -> Result<MutexGuard<'_, Step>> {
        self.0.try_lock().map_err(|_| Error::value("the step is running: read or change it between iterations"))
    }
}

#[pymethods]
impl PyStep {
    #[new]
    #[pyo3(signature = (settings, seed=Seed(0)))]
    fn new(settings: &Bound<'_, PyDict>, seed: Seed) -> PyResult<Self> {
        let given = settings
            .iter()
            .map(|(name, value)| Ok((name.extract::<String>()?, read_value(&value)?)))
            .collect::<PyResult<Vec<_>>>()?;
        let settings = Settings::new(given.iter().map(|(name, value)| (name.as_str(), value.clone())))?;
        Ok(Self(Mutex::new(Step::new(settings, seed.0))))
    }

    /// All settings with their values, as JSON.
    #[getter]
    fn settings_json(&self) -> PyResult<String> {
        serde_json::to_string(&self.state()?.settings).map_err(|e| PyValueError::new_err(e.to_string()))
    }

    #[getter]
    fn iteration(&self) -> PyResult<i64> {
        Ok(self.state()?.iteration)
    }

    #[setter]
    fn set_iteration(&self, iteration: i64) -> PyResult<()> {
        if iteration < 0 {
            return Err(PyValueError::new_err(format!("iteration must be at least 0, got {iteration}")));
        }
        self.state()?.iteration = iteration;
        Ok(())
    }

    /// Four integers that hold the whole state of the random numbers.
    #[getter]
    fn rng_state(&self) -> PyResult<[u64; 4]> {
        Ok(self.state()?.rng.state())
    }

    #[setter]
    fn set_rng_state(&self, state: [u64; 4]) -> PyResult<()> {
        self.state()?.rng = Rng::restore(state);
        Ok(())
    }

    /// The memory bank's features, labels and ring positions; None before its first use or when it is off.
    #[getter]
    fn bank(&self) -> PyResult<Option<(T, T, T)>> {
        let state = self.state()?;
        let share = |tensor: &Tensor| T(tensor.shallow_clone());
        Ok(state.bank.as_ref().map(|bank| (share(&bank.feat_sd), share(&bank.label_s), share(&bank.next_c))))
    }

    #[setter]
    fn set_bank(&self, bank: Option<(T, T, T)>) -> PyResult<()> {
        // Copied: a saved state must not move on with the training.
        let restore = |(feat, label, next): (T, T, T)| MemoryBank::from_state(feat.0, label.0, next.0)?.duplicate();
        let bank = bank.map(restore).transpose()?;
        self.state()?.bank = bank;
        Ok(())
    }

    /// Prototypes and the number of their updates; None before their first use or when they are off.
    #[getter]
    fn prototypes(&self) -> PyResult<Option<(T, T)>> {
        let state = self.state()?;
        let share = |tensor: &Tensor| T(tensor.shallow_clone());
        Ok(state.classes.prototypes.as_ref().map(|p| (share(&p.proto_kd), share(&p.updates_k))))
    }

    #[setter]
    fn set_prototypes(&self, prototypes: Option<(T, T)>) -> PyResult<()> {
        let restore = |(proto, updates): (T, T)| Prototypes::from_state(copy(&proto.0)?, copy(&updates.0)?);
        let prototypes = prototypes.map(restore).transpose()?;
        self.state()?.classes.prototypes = prototypes;
        Ok(())
    }

    /// Mean, variance and number of updates of the class distributions; None before their first use or when off.
    #[getter]
    fn distribution(&self) -> PyResult<Option<(T, T, T)>> {
        let state = self.state()?;
        let share = |tensor: &Tensor| T(tensor.shallow_clone());
        Ok(state.classes.distribution.as_ref().map(|d| (share(&d.mean_kd), share(&d.var_kd), share(&d.updates_k))))
    }

    #[setter]
    fn set_distribution(&self, distribution: Option<(T, T, T)>) -> PyResult<()> {
        let restore = |(mean, var, updates): (T, T, T)| {
            ClassDistribution::from_state(copy(&mean.0)?, copy(&var.0)?, copy(&updates.0)?)
        };
        let distribution = distribution.map(restore).transpose()?;
        self.state()?.classes.distribution = distribution;
        Ok(())
    }

    /// Runs one iteration on the adapter object `networks`; returns (scalars, mixed or None). `group`: a `pipa.Group`.
    #[pyo3(signature = (networks, source, source_label, target, valid_mask=None, draws=None, gradients=false, check_finite=false, group=None))]
    #[allow(clippy::too_many_arguments)]
    fn run<'py>(
        &self,
        py: Python<'py>,
        networks: Py<PyAny>,
        source: T,
        source_label: T,
        target: T,
        valid_mask: Option<T>,
        draws: Option<Bound<'py, PyDict>>,
        gradients: bool,
        check_finite: bool,
        group: Option<Py<PyAny>>,
    ) -> PyResult<PyReport<'py>> {
        let draws = draws.map(|d| read_draws(&d)).transpose()?;
        let batch = Batch {
            source: source.0,
            source_label: source_label.0,
            target: target.0,
            valid_mask: valid_mask.map(|m| m.0),
        };
        let report = enter(py, move || {
            let (mut networks, call) = (PyNetworks(networks), Call { draws, gradients, check_finite });
            match group {
                None => self.state()?.run(&SingleProcess, &mut networks, &batch, call),
                Some(group) => self.state()?.run(&PyGroup::new(group)?, &mut networks, &batch, call),
            }
        })?;
        give_report(py, report)
    }
}

/// A state of its own: what was saved must not move on with the training, nor the training with it.
fn copy(tensor: &Tensor) -> Result<Tensor> {
    Ok(tensor.f_detach_copy()?)
}

/// Named scalars, and the tensors for panels.
type PyReport<'py> = (Vec<(String, T)>, Option<Bound<'py, PyDict>>);

fn give_report(py: Python<'_>, report: Report) -> PyResult<PyReport<'_>> {
    let scalars = report.scalars.into_iter().map(|(name, value)| (name, T(value))).collect();
    let Some(mixed) = report.mixed else { return Ok((scalars, None)) };
    let dict = PyDict::new(py);
    dict.set_item("mixed_image", T(mixed.image))?;
    dict.set_item("mixed_label", T(mixed.label))?;
    dict.set_item("mixed_weight", T(mixed.weight))?;
    dict.set_item("pseudo_label", T(mixed.pseudo_label))?;
    dict.set_item("pseudo_weight", T(mixed.pseudo_weight))?;
    dict.set_item("mix_mask", T(mixed.mask))?;
    if let Some(pair) = mixed.patches {
        dict.set_item("patches", (from_box(pair.box1), from_box(pair.box2), pair.flip1, pair.flip2))?;
    }
    Ok((scalars, Some(dict)))
}

/// Recorded draws: {"classes": [[..], ..], "augment": [{"jitter": {..} | None, "sigma": float | None}, ..],
/// "patches": (box1, box2, flip1, flip2) | None, "mask": [[..], ..] | None, "mask_augment": [..], "target_augment": [..]}.
fn read_draws(draws: &Bound<'_, PyDict>) -> PyResult<Draws> {
    const KEYS: [&str; 6] = ["classes", "augment", "patches", "mask", "mask_augment", "target_augment"];
    for key in draws.keys() {
        let key: String = key.extract()?;
        if !KEYS.contains(&key.as_str()) {
            return Err(PyValueError::new_err(format!("draws: unknown key '{key}', expected one of {KEYS:?}")));
        }
    }
    let classes = draws.get_item("classes")?.ok_or_else(|| PyValueError::new_err("draws: 'classes' is missing"))?;
    let given = |name: &str| -> PyResult<Option<Bound<'_, PyAny>>> {
        Ok(draws.get_item(name)?.filter(|value| !value.is_none()))
    };
    let augment = given("augment")?.map(|a| read_augment(&a)).transpose()?.unwrap_or_default();
    let patches = match given("patches")? {
        None => None,
        Some(value) => {
            let (box1, box2, flip1, flip2) = value.extract::<(Region, Region, bool, bool)>()?;
            Some(PatchPair { box1: to_box(box1), box2: to_box(box2), flip1, flip2 })
        }
    };
    let mask = given("mask")?.map(|m| m.extract::<Vec<Vec<f64>>>()).transpose()?;
    let mask_augment = given("mask_augment")?.map(|a| read_augment(&a)).transpose()?.unwrap_or_default();
    let target_augment = given("target_augment")?.map(|a| read_augment(&a)).transpose()?.unwrap_or_default();
    Ok(Draws { mix: MixDraw::Classes(classes.extract()?), augment, patches, mask, mask_augment, target_augment })
}

fn read_augment(list: &Bound<'_, PyAny>) -> PyResult<Vec<AugmentDraw>> {
    let read_one = |item: Bound<'_, PyAny>| -> PyResult<AugmentDraw> {
        let jitter = item.get_item("jitter")?;
        let jitter = if jitter.is_none() {
            None
        } else {
            let order: Vec<usize> = jitter.get_item("order")?.extract()?;
            let order = order.try_into().map_err(|o: Vec<usize>| {
                PyValueError::new_err(format!("draws: order must have 4 entries, got {o:?}"))
            })?;
            let factors: BTreeMap<String, f64> = ["brightness", "contrast", "saturation", "hue"]
                .into_iter()
                .map(|name| Ok((name.to_string(), jitter.get_item(name)?.extract()?)))
                .collect::<PyResult<_>>()?;
            Some(JitterDraw {
                brightness: factors["brightness"],
                contrast: factors["contrast"],
                saturation: factors["saturation"],
                hue: factors["hue"],
                order,
            })
        };
        Ok(AugmentDraw { jitter, blur_sigma: item.get_item("sigma")?.extract()? })
    };
    list.try_iter()?.map(|item| read_one(item?)).collect()
}

/// A setting's value as it was given. Tuples and arrays count as lists, NumPy's and torch's scalars as numbers.
fn read_value(value: &Bound<'_, PyAny>) -> PyResult<Value> {
    if value.is_none() {
        return Ok(Value::None);
    }
    if let Ok(flag) = value.extract::<bool>() {
        return Ok(Value::Bool(flag));
    }
    if let Ok(text) = value.extract::<String>() {
        return Ok(Value::Text(text));
    }
    if value.is_instance_of::<PyDict>() {
        return Ok(Value::Other(value.repr()?.to_string()));
    }
    if let Ok(items) = value.try_iter() {
        return Ok(Value::List(items.map(|item| read_value(&item?)).collect::<PyResult<_>>()?));
    }
    if let Ok(number) = value.extract::<i64>() {
        return Ok(Value::Int(number));
    }
    match value.extract::<f64>() {
        Ok(number) => Ok(Value::Float(number)),
        Err(_) => Ok(Value::Other(value.repr()?.to_string())),
    }
}

/// Every setting of the iteration as a JSON list of {name, section, type, choices, default, range, unit, doc}.
#[pyfunction]
fn settings_schema() -> PyResult<String> {
    serde_json::to_string(&Settings::schema()?).map_err(|e| PyValueError::new_err(e.to_string()))
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(settings_schema, m)?)?;
    m.add_class::<PyStep>()
}
