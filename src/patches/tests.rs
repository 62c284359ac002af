//! Geometry with random requests. `PROPTEST_CASES` sets the number of cases.

use super::*;
use crate::rng::Rng;
use proptest::prelude::*;

fn cases() -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(2000);
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

/// Image columns that cell `i` of a crop looks at.
fn columns(edges: (i64, i64), mirrored: bool, i: i64, stride: i64) -> (i64, i64) {
    if mirrored {
        (edges.1 - (i + 1) * stride, edges.1 - i * stride)
    } else {
        (edges.0 + i * stride, edges.0 + (i + 1) * stride)
    }
}

fn drawn_pair_is_sound(sampler: &PatchSampler, height: i64, width: i64, pair: &PatchPair) -> Result<()> {
    let (one, two) = (pair.box1, pair.box2);
    one.check_within(height, width, "box1")?;
    two.check_within(height, width, "box2")?;
    assert_eq!((one.height(), one.width()), sampler.size);
    assert_eq!((two.height(), two.width()), sampler.size);
    let iou = sampler.iou(one.top - two.top, one.left - two.left);
    assert!(iou >= sampler.min_iou - 1e-9 && iou <= sampler.max_iou + 1e-9, "{iou}");

    let stride = sampler.align;
    let cells = |size: i64| (size - 1) / stride + 1;
    let (a, b) = pair.overlap_on(cells(sampler.size.0), cells(sampler.size.1))?;
    a.check_within(cells(sampler.size.0), cells(sampler.size.1), "overlap1")?;
    b.check_within(cells(sampler.size.0), cells(sampler.size.1), "overlap2")?;
    assert_eq!((a.height(), a.width()), (b.height(), b.width()));
    for r in 0..a.height() {
        let rows = |area: BoxYX, top: i64| columns((area.top, area.bottom), false, top + r, stride);
        assert_eq!(rows(one, a.top), rows(two, b.top));
        assert!(rows(one, a.top).1 <= one.bottom.min(two.bottom));
    }
    for c in 0..a.width() {
        let partner = if pair.flip1 != pair.flip2 { b.width() - 1 - c } else { c };
        let seen = columns((one.left, one.right), pair.flip1, a.left + c, stride);
        assert_eq!(seen, columns((two.left, two.right), pair.flip2, b.left + partner, stride));
        assert!(seen.0 >= one.left.max(two.left) && seen.1 <= one.right.min(two.right));
    }
    Ok(())
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn paired_cells_look_at_the_same_pixels(
        (height, width) in (1i64..200, 1i64..200),
        (h, w) in (1i64..120, 1i64..120),
        power in 0u32..6,
        (low, high) in (0.0f64..1.0, 0.0f64..1.0),
        flip: bool,
        seed: u64,
    ) {
        let sampler = PatchSampler {
            size: (h, w), min_iou: low.min(high), max_iou: low.max(high), flip, align: 1 << power,
        };
        // An impossible request is an error; everything else is a sound pair.
        if let Ok(pair) = sampler.draw(height, width, &mut Rng::new(seed)) {
            drawn_pair_is_sound(&sampler, height, width, &pair).unwrap();
        }
    }

    /// A request is refused only if trying all places finds nothing either.
    #[test]
    fn refusals_are_right(
        (height, width) in (1i64..24, 1i64..24),
        (h, w) in (1i64..24, 1i64..24),
        align in 1i64..5,
        (low, high) in (0.0f64..1.0, 0.0f64..1.0),
        flip: bool,
        seed: u64,
    ) {
        let (min_iou, max_iou) = (low.min(high), low.max(high));
        let sampler = PatchSampler { size: (h, w), min_iou, max_iou, flip, align };
        let mut coin = Rng::new(seed);
        let (flip1, flip2) = (flip && coin.uniform(0.0, 1.0) < 0.5, flip && coin.uniform(0.0, 1.0) < 0.5);
        let places = |total: i64, size: i64, mirrored: bool| -> Vec<i64> {
            (0..=total - size).filter(|p| (p + if mirrored { size } else { 0 }) % align == 0).collect()
        };
        // Cell edges lie on multiples of align in the image, whichever way a crop is mirrored.
        let whole = |a: i64, b: i64, size: i64| {
            (a.max(b)..a.min(b) + size).any(|p| p % align == 0 && p + align <= a.min(b) + size)
        };
        let tops = places(height, h, false);
        let (left1, left2) = (places(width, w, flip1), places(width, w, flip2));
        let mut possible = false;
        for &t in &tops { for &u in tops.iter().filter(|&&u| whole(t, u, h)) {
            for &l in &left1 { for &m in left2.iter().filter(|&&m| whole(l, m, w)) {
                let iou = sampler.iou(t - u, l - m);
                possible |= iou >= min_iou && iou <= max_iou;
            } }
        } }
        prop_assert_eq!(sampler.draw(height, width, &mut Rng::new(seed)).is_ok(), possible);
    }

    #[test]
    fn hostile_numbers_are_errors_not_panics(
        edges in prop::array::uniform8(prop_oneof![any::<i64>(), -3i64..200]),
        (fh, fw) in (prop_oneof![any::<i64>(), -1i64..40], prop_oneof![any::<i64>(), -1i64..40]),
        (height, width) in (prop_oneof![any::<i64>(), -1i64..200], prop_oneof![any::<i64>(), -1i64..200]),
        (low, high) in (any::<f64>(), any::<f64>()),
        flips: [bool; 2],
        seed: u64,
    ) {
        let area = |e: &[i64]| BoxYX { top: e[0], left: e[1], bottom: e[2], right: e[3] };
        let (box1, box2) = (area(&edges[..4]), area(&edges[4..]));
        let pair = PatchPair { box1, box2, flip1: flips[0], flip2: flips[1] };
        if let Ok((a, b)) = pair.overlap_on(fh, fw) {
            a.check_within(fh, fw, "overlap1").unwrap();
            b.check_within(fh, fw, "overlap2").unwrap();
            prop_assert_eq!((a.height(), a.width()), (b.height(), b.width()));
        }
        let image = Tensor::f_zeros([1, 1, 60, 70], tch::kind::FLOAT_CPU).unwrap();
        if let Ok((one, _)) = pair.crop(&image) {
            prop_assert_eq!(one.size(), [1, 1, box1.height(), box1.width()]);
        }
        let sampler = PatchSampler { size: (edges[0], edges[1]), min_iou: low, max_iou: high, flip: true, align: edges[2] };
        let _ = sampler.draw(height.min(2000), width.min(2000), &mut Rng::new(seed));
    }
}
