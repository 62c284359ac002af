//! The choice of `choose` on host memory: one pass sorts pixels into groups, and only the chosen ones are put in order.

use super::AnchorSampler;
use std::collections::BTreeMap;

/// Pixels of one class (of one image): wrongly and rightly predicted ones, as (priority, position).
#[derive(Default)]
struct Group {
    hard: Vec<(f32, i64)>,
    easy: Vec<(f32, i64)>,
}

/// Flat positions in the order of [`super::Anchors`]. `pixels`: of one image; `prediction`: as long as `label`, or none.
pub fn choose(
    sampler: &AnchorSampler,
    label: &[i64],
    prediction: Option<&[i64]>,
    priority: &[f32],
    pixels: usize,
) -> Vec<i64> {
    let span = if sampler.per_image { pixels.max(1) } else { label.len().max(1) };
    let mut groups = Vec::new();
    for (image, ids) in label.chunks(span).enumerate() {
        groups.extend(gather(sampler, ids, image * span, prediction, priority));
    }
    let quota = (sampler.max_anchors / (groups.len() as i64).max(1)).max(2).min(sampler.max_per_class);
    let mut chosen = Vec::with_capacity((quota as usize).saturating_mul(groups.len()).min(label.len()));
    for group in &mut groups {
        let (hard, easy) = (group.hard.len() as i64, group.easy.len() as i64);
        let take_hard = (quota / 2).max(quota - easy).min(hard);
        let take_easy = (quota - take_hard).min(easy);
        chosen.extend(smallest(&mut group.hard, take_hard as usize));
        chosen.extend(smallest(&mut group.easy, take_easy as usize));
    }
    chosen.truncate(usize::try_from(sampler.max_anchors).unwrap_or(usize::MAX));
    chosen
}

/// Groups of the pixels `ids`, which start at position `first`; classes ascending, too small ones left out.
fn gather(
    sampler: &AnchorSampler,
    ids: &[i64],
    first: usize,
    prediction: Option<&[i64]>,
    priority: &[f32],
) -> Vec<Group> {
    let mut slot_of: BTreeMap<i64, usize> = BTreeMap::new();
    let mut groups: Vec<Group> = Vec::new();
    // Neighbours mostly share a class: the tree is asked only where it changes.
    let mut last: Option<(i64, usize)> = None;
    for (i, &id) in ids.iter().enumerate() {
        if id == sampler.ignore_index {
            continue;
        }
        let slot = match last {
            Some((same, slot)) if same == id => slot,
            _ => *slot_of.entry(id).or_insert_with(|| {
                groups.push(Group::default());
                groups.len() - 1
            }),
        };
        last = Some((id, slot));
        let position = first + i;
        let entry = (priority[position], position as i64);
        if prediction.is_some_and(|prediction| prediction[position] != id) {
            groups[slot].hard.push(entry);
        } else {
            groups[slot].easy.push(entry);
        }
    }
    let enough = |group: &Group| (group.hard.len() + group.easy.len()) as i64 >= sampler.min_pixels;
    slot_of.into_values().map(|slot| std::mem::take(&mut groups[slot])).filter(enough).collect()
}

/// Positions of the `count` entries of smallest priority, in that order; equal priorities in pixel order.
fn smallest(entries: &mut [(f32, i64)], count: usize) -> impl Iterator<Item = i64> + '_ {
    let order = |a: &(f32, i64), b: &(f32, i64)| compare(a.0, b.0).then(a.1.cmp(&b.1));
    if 0 < count && count < entries.len() {
        entries.select_nth_unstable_by(count - 1, order);
    }
    entries[..count].sort_unstable_by(order);
    entries[..count].iter().map(|entry| entry.1)
}

/// As torch sorts: -0 equals 0, NaN of either sign comes last.
fn compare(a: f32, b: f32) -> std::cmp::Ordering {
    a.partial_cmp(&b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
}
