//! What the contrastive kernel compares: anchors, their positives, masks; and whether they fit together.
//!
//! Suffixes: N anchors, M keys, D channels.

use crate::error::{Error, Result};
use crate::shape::{check_device, check_float, check_integer, check_positive, check_rank, check_size};
use tch::{Device, Kind, Tensor};

/// What makes a key a positive of an anchor.
pub enum Positive<'a> {
    /// Equal class ids (any integers; every id is a class, so the caller removes ignored pixels).
    Class { anchor_n: &'a Tensor, key_m: &'a Tensor },
    /// One key per anchor by position; a negative index means "no positive", and such an anchor does not count.
    Index(&'a Tensor),
}

/// Optional restrictions, for callers whose shapes must not depend on values (accelerators).
#[derive(Default, Clone, Copy)]
pub struct Masks<'a> {
    /// bool [N]: anchors that count.
    pub anchor_n: Option<&'a Tensor>,
    /// bool [M]: keys that exist, for denominators and as positives.
    pub key_m: Option<&'a Tensor>,
    /// Classes (any integers) of anchors [N] and keys [M], for positives by position: a key of the anchor's own class is no
    /// negative. The positive itself stays in the denominator.
    pub class_nm: Option<(&'a Tensor, &'a Tensor)>,
    /// Rows and columns of the largest score tile; None: chosen by device.
    pub tile: Option<(i64, i64)>,
}

/// Where the anchors come from. Those that are keys are scaled to length one with them, which halves the memory.
pub enum Anchors<'a> {
    /// Features [N,D] of their own.
    Own(&'a Tensor),
    /// All keys, or those at the given positions (int64 [N], none twice).
    Keys(Option<&'a Tensor>),
}

impl Anchors<'_> {
    pub(super) fn count(&self, key_md: &Tensor) -> i64 {
        let rows = match self {
            Anchors::Own(x) | Anchors::Keys(Some(x)) => x,
            Anchors::Keys(None) => key_md,
        };
        rows.size().first().copied().unwrap_or(0)
    }
}

pub(super) fn check(
    anchors: &Anchors,
    key_md: &Tensor,
    positive: &Positive,
    self_index_n: Option<&Tensor>,
    temperature: f64,
    masks: &Masks,
) -> Result<()> {
    check_positive(temperature, "temperature")?;
    let own = match anchors {
        Anchors::Own(anchor_nd) => *anchor_nd,
        Anchors::Keys(_) => key_md,
    };
    for (x, name) in [(own, "anchor_nd"), (key_md, "key_md")] {
        check_rank(x, 2, name, if name == "key_md" { "[M,D]" } else { "[N,D]" })?;
        check_float(x, name)?;
    }
    check_device(key_md, "key_md", own, "anchor_nd")?;
    let (m, d) = (key_md.size()[0], own.size()[1]);
    if key_md.size()[1] != d || d == 0 {
        return Err(Error::shape(format!(
            "key_md: expected [M,{d}] to match anchor_nd {:?} (at least one channel), got {:?}",
            own.size(),
            key_md.size()
        )));
    }
    if own.f_kind()? != key_md.f_kind()? {
        return Err(Error::dtype(format!(
            "key_md: expected the dtype of anchor_nd ({:?}), got {:?}",
            own.kind(),
            key_md.kind()
        )));
    }
    if let Some((rows, columns)) = masks.tile {
        if rows < 1 || columns < 1 {
            return Err(Error::value(format!("tile: expected two positive sizes, got ({rows}, {columns})")));
        }
    }
    let n = anchors.count(key_md);
    let mut integers: Vec<(&Tensor, &str, i64, bool)> = match positive {
        Positive::Class { anchor_n, key_m } => {
            vec![(*anchor_n, "anchor_label_n", n, false), (*key_m, "key_label_m", m, false)]
        }
        Positive::Index(index_n) => vec![(*index_n, "positive index_n", n, true)],
    };
    integers.extend(self_index_n.map(|index_n| (index_n, "self_index_n", n, true)));
    if let Some((anchor_n, key_m)) = masks.class_nm {
        integers.extend([(anchor_n, "anchor_class_n", n, false), (key_m, "key_class_m", m, false)]);
    }
    for (tensor, name, length, is_index) in integers {
        check_integer(tensor, name)?;
        check_size(tensor, &[length], name)?;
        check_device(tensor, name, own, "anchor_nd")?;
        // Reading the largest index is free on the CPU; accelerators check indices themselves when they use them.
        if is_index && length > 0 && tensor.device() == Device::Cpu {
            let largest = i64::try_from(tensor.f_max()?.f_to_kind(Kind::Int64)?)?;
            if largest >= m {
                return Err(Error::value(format!("{name}: expected indices below {m} (keys), got {largest}")));
            }
        }
    }
    Ok(())
}
