//! CPU tensors as slices, and new CPU tensors filled through slices.

use crate::error::{Error, Result};
use half::bf16;
use std::ops::{Deref, DerefMut};
use tch::{Device, Kind, Tensor};

/// A type whose values a tensor of kind `KIND` stores.
///
/// # Safety
/// Every bit pattern is a value, and size and alignment are those of the kind.
pub unsafe trait Element: Copy + Send + Sync + 'static {
    const KIND: Kind;
}
macro_rules! elements {
    ($($type:ty => $kind:ident),*) => { $(unsafe impl Element for $type { const KIND: Kind = Kind::$kind; })* };
}
elements!(f32 => Float, f64 => Double, bf16 => BFloat16, u8 => Uint8, i16 => Int16, i32 => Int, i64 => Int64);

/// Read access to a contiguous CPU tensor; keeps its storage alive.
pub struct View<T> {
    _storage: Tensor,
    start: *const T,
    len: usize,
}
// SAFETY: a View only reads plain numbers, and its tensor is only dropped.
unsafe impl<T: Element> Send for View<T> {}
unsafe impl<T: Element> Sync for View<T> {}

impl<T> Deref for View<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        // SAFETY: `start` is the first of `len` elements of a dense contiguous tensor that `_storage` keeps alive.
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }
}

fn start<T>(tensor: &Tensor, len: usize) -> Result<*mut T> {
    if len == 0 {
        return Ok(std::ptr::NonNull::dangling().as_ptr());
    }
    let pointer = tensor.data_ptr().cast::<T>();
    if pointer.is_null() {
        return Err(Error::value("a tensor has no storage"));
    }
    Ok(pointer)
}

/// The values of `tensor` in logical order as `T`: its own memory where it is contiguous and of that kind, else a copy.
pub fn view<T: Element>(tensor: &Tensor) -> Result<View<T>> {
    let dense = tensor.f_detach()?.f_to_device_(Device::Cpu, T::KIND, false, false)?.f_contiguous()?;
    let len = dense.numel();
    Ok(View { start: start(&dense, len)?, len, _storage: dense })
}

/// The bytes of a contiguous tensor's elements as integers of the same size, for kernels that only move values.
pub(crate) fn view_bits<T: Element>(tensor: &Tensor) -> Result<View<T>> {
    let dense = tensor.f_detach()?.f_contiguous()?;
    let len = dense.numel();
    if dense.f_kind()?.elt_size_in_bytes() != std::mem::size_of::<T>() {
        return Err(Error::dtype("a tensor's element size is not the one expected"));
    }
    Ok(View { start: start(&dense, len)?, len, _storage: dense })
}

/// A new contiguous CPU tensor and write access to it. Its values are arbitrary until written.
pub struct Output<T> {
    tensor: Tensor,
    start: *mut T,
    len: usize,
}
// SAFETY: as for View; the tensor is not shared before `into_tensor`.
unsafe impl<T: Element> Send for Output<T> {}
unsafe impl<T: Element> Sync for Output<T> {}

impl<T> Deref for Output<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        // SAFETY: as for View.
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }
}
impl<T> DerefMut for Output<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: the tensor was made here and nobody else holds it.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.len) }
    }
}

impl<T> Output<T> {
    pub fn into_tensor(self) -> Tensor {
        self.tensor
    }
}

pub fn output<T: Element>(size: &[i64]) -> Result<Output<T>> {
    output_bits(size, T::KIND)
}

/// As `output`, for a kind of the same element size as `T`.
pub(crate) fn output_bits<T: Element>(size: &[i64], kind: Kind) -> Result<Output<T>> {
    if kind.elt_size_in_bytes() != std::mem::size_of::<T>() {
        return Err(Error::dtype("a tensor's element size is not the one expected"));
    }
    let tensor = Tensor::f_empty(size, (kind, Device::Cpu))?;
    let len = tensor.numel();
    Ok(Output { start: start(&tensor, len)?, len, tensor })
}

/// An integer id as it is stored.
pub trait Id: Element + PartialEq {
    fn id(self) -> i64;
    /// The id itself below `classes`, else `classes + 1`, and `classes` for `ignore`. Without a branch; bytes stay narrow.
    fn place(self, classes: u16, ignore: i64) -> u16;
}
impl Id for u8 {
    fn id(self) -> i64 {
        i64::from(self)
    }
    #[inline(always)]
    fn place(self, classes: u16, ignore: i64) -> u16 {
        let ignore = if (0..256).contains(&ignore) { ignore as u16 } else { u16::MAX };
        let id = u16::from(self);
        let place = if id < classes { id } else { classes + 1 };
        if id == ignore {
            classes
        } else {
            place
        }
    }
}
impl Id for i64 {
    fn id(self) -> i64 {
        self
    }
    #[inline(always)]
    fn place(self, classes: u16, ignore: i64) -> u16 {
        let place = if (self as u64) < u64::from(classes) { self as u16 } else { classes + 1 };
        if self == ignore {
            classes
        } else {
            place
        }
    }
}

/// A label map on the host: bytes stay bytes, every other integer kind becomes i64.
pub enum Labels {
    Byte(View<u8>),
    Long(View<i64>),
}

pub fn labels(tensor: &Tensor) -> Result<Labels> {
    Ok(match tensor.f_kind()? {
        Kind::Uint8 => Labels::Byte(view(tensor)?),
        _ => Labels::Long(view(tensor)?),
    })
}

/// Runs the same code on either kind of label map: `with_labels!(labels, slice => expression)`.
#[macro_export]
macro_rules! with_labels {
    ($labels:expr, $slice:ident => $body:expr) => {
        match $labels {
            $crate::host::slice::Labels::Byte(ref view) => {
                let $slice: &[u8] = view;
                $body
            }
            $crate::host::slice::Labels::Long(ref view) => {
                let $slice: &[i64] = view;
                $body
            }
        }
    };
}

/// The first id that is neither below `classes` nor `ignore`.
pub fn invalid_id<T: Id>(label: &[T], classes: i64, ignore: i64) -> Option<i64> {
    use rayon::prelude::*;
    let invalid = |&v: &T| {
        let id = v.id();
        !((0..classes).contains(&id) || id == ignore)
    };
    // Chunks without a branch inside vectorise; the rare hit is then looked up.
    super::pool::run(|| {
        label
            .par_chunks(1 << 16)
            .find_first(|chunk| chunk.iter().fold(false, |any, v| any | invalid(v)))
            .and_then(|chunk| chunk.iter().find(|v| invalid(v)))
            .map(|v| v.id())
    })
}

/// Refuses a label map with an id outside the classes. Host only: on an accelerator it would force a synchronisation.
pub fn check_ids(label: &Tensor, classes: i64, ignore: i64, name: &str) -> Result<()> {
    let labels = labels(label)?;
    match with_labels!(labels, slice => invalid_id(slice, classes, ignore)) {
        None => Ok(()),
        Some(id) => Err(Error::value(format!(
            "{name}: id {id} is neither one of the {classes} classes 0..{} nor the ignored id {ignore}",
            classes - 1
        ))),
    }
}
