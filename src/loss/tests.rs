//! The kernel's masks against plain selection, and random shapes, labels and boxes. `PROPTEST_CASES` sets the number.

use super::bank::MemoryBank;
use super::contrast::{contrast, Anchors, Masks, Positive};
use super::patch::patch_contrast;
use super::pixel::{nearest, PixelContrast, Sampling};
use crate::anchors::AnchorSampler;
use crate::error::Result;
use crate::group::SingleProcess;
use crate::patches::BoxYX;
use crate::rng::Rng;
use crate::surrogate::attach;
use proptest::prelude::*;
use tch::{Kind, Tensor};

fn cases() -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(2000);
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

fn random(size: &[i64], seed: u64) -> Tensor {
    let mut rng = Rng::new(seed);
    let values: Vec<f64> = (0..size.iter().product::<i64>()).map(|_| rng.normal()).collect();
    Tensor::from_slice(&values).reshape(size)
}

fn gradient(loss: &Tensor, x: &Tensor) -> Tensor {
    Tensor::run_backward(&[loss], &[x], true, false).remove(0)
}

/// Accelerators mask filler instead of selecting; both must agree, and filler must not matter.
#[test]
fn masked_filler_equals_plain_selection() -> Result<()> {
    let (n, kept) = (12i64, [0i64, 2, 3, 4, 7, 8, 9]);
    let label: Vec<i64> = (0..n).map(|i| i % 3).collect();
    let label = Tensor::f_from_slice(&label)?;
    let index = Tensor::f_from_slice(&kept)?;
    let mut valid = Tensor::f_zeros([n], (Kind::Bool, tch::Device::Cpu))?;
    let valid = valid.f_index_fill_(0, &index, 1)?;
    let own = Tensor::f_arange(n, (Kind::Int64, tch::Device::Cpu))?;
    for tile in [None, Some((5, 4))] {
        let x = random(&[n, 5], 3).set_requires_grad(true);
        let masks = Masks { anchor_n: Some(&valid), key_m: Some(&valid), tile, ..Masks::default() };
        let positive = Positive::Class { anchor_n: &label, key_m: &label };
        let masked = contrast(Anchors::Keys(None), &x, positive, Some(&own), 0.1, masks)?;
        let y = x.f_index_select(0, &index)?;
        let few = label.f_index_select(0, &index)?;
        let own = own.f_narrow(0, 0, kept.len() as i64)?;
        let positive = Positive::Class { anchor_n: &few, key_m: &few };
        let plain = contrast(Anchors::Keys(None), &y, positive, Some(&own), 0.1, Masks::default())?;
        assert!((masked.double_value(&[]) - plain.double_value(&[])).abs() < 1e-12);
        let difference = gradient(&masked, &x) - gradient(&plain, &x);
        assert!(difference.abs().max().double_value(&[]) < 1e-12);

        // Position positives: a masked key is no positive.
        let position = Tensor::f_from_slice(&[2i64, 1, 5, 0, 1, 2, 3, 4, 5, 6, 7, 8])?;
        let masked = contrast(Anchors::Keys(None), &x, Positive::Index(&position), Some(&own_of(n)?), 0.1, masks)?;
        // Kept anchors are at 0,2,3,4,7,8,9; their positives 2,5,0,1,4,5,6 become, in kept order, these or none.
        let position = Tensor::f_from_slice(&[1i64, -1, 0, -1, 3, -1, -1])?;
        let plain = contrast(Anchors::Keys(None), &y, Positive::Index(&position), Some(&own), 0.1, Masks::default())?;
        assert!((masked.double_value(&[]) - plain.double_value(&[])).abs() < 1e-12);
        let difference = gradient(&masked, &x) - gradient(&plain, &x);
        assert!(difference.abs().max().double_value(&[]) < 1e-12);
    }
    Ok(())
}

fn own_of(n: i64) -> Result<Tensor> {
    Ok(Tensor::f_arange(n, (Kind::Int64, tch::Device::Cpu))?)
}

/// Keys of an anchor's own class leave its denominator, whatever the tiles; its positive stays.
#[test]
fn negatives_of_other_classes_equal_plain_selection() -> Result<()> {
    let (n, m) = (7i64, 11i64);
    let (anchor, key) = (random(&[n, 4], 5).set_requires_grad(true), random(&[m, 4], 6).set_requires_grad(true));
    let anchor_class = [0i64, 1, 2, 0, 1, 5, 0];
    let key_class = [0i64, 1, 2, 0, 1, 2, 0, 1, 2, 255, 0];
    let positive = [3i64, 2, -1, 10, 4, 9, 0];
    let (anchor_n, key_m) = (Tensor::f_from_slice(&anchor_class)?, Tensor::f_from_slice(&key_class)?);
    let positive_n = Tensor::f_from_slice(&positive)?;
    let mut sum = Tensor::f_zeros([] as [i64; 0], (Kind::Double, tch::Device::Cpu))?;
    for i in (0..n as usize).filter(|&i| positive[i] >= 0) {
        let kept: Vec<i64> = (0..m).filter(|&k| k == positive[i] || key_class[k as usize] != anchor_class[i]).collect();
        let at = kept.iter().position(|&k| k == positive[i]).unwrap_or(0) as i64;
        let few = key.f_index_select(0, &Tensor::f_from_slice(&kept)?)?;
        let one = anchor.f_narrow(0, i as i64, 1)?;
        let at = Tensor::f_from_slice(&[at])?;
        let cost = contrast(Anchors::Own(&one), &few, Positive::Index(&at), None, 0.1, Masks::default())?;
        sum = sum.f_add(&cost)?;
    }
    let expected = sum.f_div_scalar(positive.iter().filter(|&&p| p >= 0).count() as i64)?;
    for tile in [None, Some((1, 1)), Some((3, 4)), Some((100, 5))] {
        let masks = Masks { class_nm: Some((&anchor_n, &key_m)), tile, ..Masks::default() };
        let loss = contrast(Anchors::Own(&anchor), &key, Positive::Index(&positive_n), None, 0.1, masks)?;
        assert!((loss.double_value(&[]) - expected.double_value(&[])).abs() < 1e-12);
        for x in [&anchor, &key] {
            let difference = gradient(&loss, x) - gradient(&expected, x);
            assert!(difference.abs().max().double_value(&[]) < 1e-12);
        }
    }
    let masks = Masks { class_nm: Some((&anchor_n, &key_m)), ..Masks::default() };
    let by_class = Positive::Class { anchor_n: &anchor_n, key_m: &key_m };
    assert!(contrast(Anchors::Own(&anchor), &key, by_class, None, 0.1, masks).is_err());
    Ok(())
}

#[test]
fn a_huge_gradient_leaves_the_value_alone() -> Result<()> {
    let x = Tensor::f_from_slice(&[1e30f32, -1e30])?.set_requires_grad(true);
    let value = attach(Tensor::f_from_slice(&[2.5f32])?.f_squeeze()?, &[(&x, Tensor::f_from_slice(&[1e20f32, 3.0])?)])?;
    assert_eq!(value.double_value(&[]), 2.5);
    assert_eq!(Vec::<f32>::try_from(gradient(&value, &x))?, [1e20, 3.0]);
    Ok(())
}

fn number() -> impl Strategy<Value = i64> {
    prop_oneof![4 => -2i64..8, 1 => any::<i64>()]
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn contrast_is_finite_or_an_error(
        (n, m, d) in (0i64..6, 0i64..6, 0i64..4),
        ids in prop::collection::vec(number(), 18),
        by_class: bool,
        exclude: bool,
        tile in prop::option::of((0i64..4, 0i64..4)),
        temperature in prop_oneof![Just(0.1), 1e-3..1e3f64, any::<f64>()],
        seed: u64,
    ) {
        let anchor = random(&[n, d], seed).set_requires_grad(true);
        let key = random(&[m, d], seed ^ 1).set_requires_grad(true);
        let part = |from: usize, len: i64| Tensor::from_slice(&ids[from..from + len as usize]);
        let (first, second, own) = (part(0, n), part(6, m), part(12, n));
        let positive = if by_class {
            Positive::Class { anchor_n: &first, key_m: &second }
        } else {
            Positive::Index(&first)
        };
        let masks = Masks { tile, ..Masks::default() };
        let sane = (1e-3..1e3).contains(&temperature);
        if let Ok(loss) = contrast(Anchors::Own(&anchor), &key, positive, exclude.then_some(&own), temperature, masks) {
            let grad = gradient(&loss, &anchor);
            prop_assert!(!sane || loss.isfinite().double_value(&[]) == 1.0);
            prop_assert!(!sane || grad.isfinite().all().double_value(&[]) == 1.0);
        } else {
            let below = |v: &[i64]| v.iter().all(|&i| i < m);
            let bad_index = (!by_class && !below(&ids[..n as usize]))
                || (exclude && !below(&ids[12..12 + n as usize]));
            let bad_tile = tile.is_some_and(|(r, c)| r < 1 || c < 1);
            prop_assert!(d == 0 || bad_index || bad_tile || !sane);
        }
    }

    #[test]
    fn boxes_are_checked(
        edges in prop::array::uniform8(number()),
        (h, w) in (0i64..6, 0i64..6),
        flips: [bool; 2],
        seed: u64,
    ) {
        let one = random(&[1, 3, h, w], seed);
        let two = random(&[1, 3, h, w], seed ^ 1);
        let area = |e: &[i64]| BoxYX { top: e[0], left: e[1], bottom: e[2], right: e[3] };
        let (a, b) = (area(&edges[..4]), area(&edges[4..]));
        let inside = |x: BoxYX| x.check_within(h, w, "box").is_ok();
        let fits = inside(a) && inside(b) && (a.height(), a.width()) == (b.height(), b.width());
        let outcome = patch_contrast(&one, &two, a, b, flips[0], flips[1], None, 0.1);
        prop_assert_eq!(outcome.is_ok(), fits);
        if let Ok(loss) = outcome {
            prop_assert!(loss.isfinite().double_value(&[]) == 1.0);
        }
    }

    #[test]
    fn pixel_maps_are_finite_or_an_error(
        (b, h, w) in (0i64..3, 0i64..5, 0i64..5),
        (lh, lw) in (0i64..8, 0i64..8),
        ids in prop::collection::vec(number(), 98),
        all: bool,
        with_bank: bool,
        seed: u64,
    ) {
        let embedding = random(&[b, 3, h, w], seed).set_requires_grad(true);
        let label = Tensor::from_slice(&ids[..(b * lh * lw) as usize]).reshape([b, lh, lw]);
        let sampling = if all { Sampling::All } else { Sampling::Balanced };
        let anchors = AnchorSampler { max_anchors: 20, max_per_class: 5, min_pixels: 2, ignore_index: 255, per_image: false };
        let loss = PixelContrast { temperature: 0.1, sampling, anchors };
        let mut bank = MemoryBank::new(4, 3, 3, Kind::Double, tch::Device::Cpu).unwrap();
        let mut rng = Rng::new(seed);
        for _ in 0..2 {
            let memory = with_bank.then_some(&mut bank);
            match loss.forward(&SingleProcess, &embedding, &label, Some(&label), &mut rng, memory) {
                Ok(value) => {
                    prop_assert!(value.isfinite().double_value(&[]) == 1.0);
                    prop_assert!(gradient(&value, &embedding).isfinite().all().double_value(&[]) == 1.0);
                }
                Err(error) => {
                    let stray = with_bank && error.to_string().starts_with("label_bhw: id ");
                    prop_assert!(stray || (lh == 0 && h > 0) || (lw == 0 && w > 0));
                }
            }
        }
        let kept = Vec::<i64>::try_from(&bank.label_s).unwrap();
        prop_assert!(kept.iter().all(|&id| (-1..4).contains(&id)));
    }

    #[test]
    fn nearest_is_torchs_nearest((h, w) in (1i64..40, 1i64..40), (to_h, to_w) in (1i64..40, 1i64..40), seed: u64) {
        let map = (random(&[2, h, w], seed) * 100).to_kind(Kind::Int64);
        let ours = nearest(&map, to_h, to_w).unwrap();
        let floats = map.unsqueeze(1).to_kind(Kind::Float);
        let theirs = floats.upsample_nearest2d([to_h, to_w], None, None).squeeze_dim(1).to_kind(Kind::Int64);
        prop_assert!(ours.equal(&theirs));
    }
}
