//! From the label files of a data set to train ids. One call per file; the caller brings the threads.

use crate::error::Result;
use crate::host::labels::{count, IdTable};
use crate::host::png::{self, Channel};
use std::path::Path;

/// Height, width, and the ids that occur with their numbers of pixels.
pub type Summary = (usize, usize, Vec<(u16, u64)>);

fn listed(counts: &[u64; 256]) -> Vec<(u16, u64)> {
    counts.iter().enumerate().filter(|(_, &n)| n > 0).map(|(id, &n)| (id as u16, n)).collect()
}

/// Reads `source`, writes its train ids to `target`, and says what the train ids are.
pub fn convert(source: &Path, target: &Path, table: &IdTable, channel: Channel) -> Result<Summary> {
    let label = png::read(source, channel)?;
    let ids = table.apply(&label.ids);
    png::write(target, label.height, label.width, &ids)?;
    Ok((label.height, label.width, listed(&count(&ids))))
}

/// Writes ids that were made elsewhere (drawn polygons).
pub fn store(target: &Path, height: usize, width: usize, ids: &[u8]) -> Result<Summary> {
    png::write(target, height, width, ids)?;
    Ok((height, width, listed(&count(ids))))
}

/// Decodes a whole label file and counts its ids.
pub fn summary(path: &Path) -> Result<Summary> {
    let label = png::read(path, Channel::Only)?;
    Ok((label.height, label.width, label.ids.histogram()))
}
