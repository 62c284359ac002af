//! Functions that take labels, masks, factors or shapes from outside never panic: they answer or refuse.
//! PROPTEST_CASES sets the number of cases per function (default 64); `make fuzz` takes a hundred thousand.

use _core::augment::{color_jitter, gaussian_blur, AugmentDraw, JitterDraw, StrongAugment};
use _core::group::SingleProcess;
use _core::host::confusion::{class_counts, confusion_matrix};
use _core::loss::feature_distance::{downscale_label, DistanceForm, FeatureDistance};
use _core::loss::patch_gated::{patch_contrast_gated, Gate, View};
use _core::loss::pixel_official::pixel_contrast_official;
use _core::loss::segmentation::{accuracy, cross_entropy, Average};
use _core::masking::{block_mask, mask_grid};
use _core::mix::{class_mask, class_mix, draw_class_mask, draw_classes, ClassScope};
use _core::pseudo_label::PseudoLabel;
use _core::rng::Rng;
use _core::teacher::ema_update;
use proptest::prelude::*;
use tch::{Kind, Tensor};

const FLOATS: [f64; 10] = [0.0, 1.0, -1.0, 0.3, 17.0, -1e30, 1e38, f64::INFINITY, f64::NEG_INFINITY, f64::NAN];
const IDS: [i64; 10] = [0, 0, 1, 1, 2, 3, 255, -1, i64::MAX, i64::MIN];
const KINDS: [Kind; 8] =
    [Kind::Float, Kind::Float, Kind::Double, Kind::Half, Kind::BFloat16, Kind::Int64, Kind::Uint8, Kind::Bool];

fn config() -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(64);
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

/// How one argument departs from what fits: a dimension changed or dropped, another dtype, another memory order.
#[derive(Clone, Debug)]
struct Twist {
    dim: usize,
    size: Option<i64>,
    kind: Option<Kind>,
    transposed: bool,
    wild: bool,
}

fn twist() -> impl Strategy<Value = Twist> {
    let size = prop_oneof![6 => Just(None), 1 => (0i64..7).prop_map(Some)];
    let kind = prop_oneof![4 => Just(None), 1 => prop::sample::select(&KINDS[..]).prop_map(Some)];
    (0usize..5, size, kind, any::<bool>(), prop::bool::weighted(0.3))
        .prop_map(|(dim, size, kind, transposed, wild)| Twist { dim, size, kind, transposed, wild })
}

fn shape() -> impl Strategy<Value = [i64; 4]> {
    let side = || prop_oneof![1 => Just(0i64), 30 => 1i64..12];
    (prop_oneof![1 => Just(0i64), 20 => 1i64..3], 1i64..5, side(), side()).prop_map(|(b, c, h, w)| [b, c, h, w])
}

fn build(size: &[i64], usual: Kind, twist: &Twist, seed: u64) -> Tensor {
    let mut size = size.to_vec();
    if let Some(n) = twist.size {
        if twist.dim < size.len() {
            size[twist.dim] = n;
        } else {
            size.pop();
        }
    }
    let mut rng = Rng::new(seed);
    let count = size.iter().product::<i64>() as usize;
    let tensor = if usual == Kind::Int64 {
        let few = if twist.wild { IDS.len() } else { 4 };
        let values: Vec<i64> = (0..count).map(|_| IDS[rng.below(few).unwrap()]).collect();
        Tensor::from_slice(&values)
    } else {
        let few = if twist.wild { FLOATS.len() } else { 5 };
        let values: Vec<f64> = (0..count).map(|_| FLOATS[rng.below(few).unwrap()]).collect();
        Tensor::from_slice(&values)
    };
    let tensor = tensor.reshape(&size).to_kind(twist.kind.unwrap_or(usual));
    let rank = size.len() as i64;
    if twist.transposed && rank >= 2 {
        return tensor.transpose(rank - 1, rank - 2).contiguous().transpose(rank - 1, rank - 2);
    }
    tensor
}

fn average(all: bool) -> Average {
    if all {
        Average::All
    } else {
        Average::Valid
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn pseudo_labels(s in shape(), t in twist(), m in twist(), top in -1i64..20, bottom in -1i64..20, seed: u64, masked: bool) {
        let logits = build(&s, Kind::Float, &t, seed);
        let mask = build(&[s[0], 1, s[2], s[3]], Kind::Float, &m, seed ^ 1);
        let settings = PseudoLabel { threshold: 0.5, ignore_top: top, ignore_bottom: bottom };
        if let Ok((label, weight)) = settings.forward(&SingleProcess, &logits, masked.then_some(&mask)) {
            prop_assert_eq!(label.size(), weight.size());
            prop_assert!(label.min().int64_value(&[]) >= 0 && label.max().int64_value(&[]) < logits.size()[1]);
        }
    }

    #[test]
    fn mixing(s in shape(), l in twist(), a in twist(), b in twist(), classes in -1i64..6, batch: bool, seed: u64, few in prop::collection::vec(prop::sample::select(&IDS[..]), 0..4)) {
        let map = [s[0], 1, s[2], s[3]];
        let label = build(&map, Kind::Int64, &l, seed);
        let scope = if batch { ClassScope::Batch } else { ClassScope::PerImage };
        let drawn = draw_classes(&SingleProcess, &label, classes, 255, scope, &mut Rng::new(seed));
        let mask = draw_class_mask(&SingleProcess, &label, classes, 255, scope, &mut Rng::new(seed));
        prop_assert_eq!(drawn.is_ok(), mask.is_ok());
        let listed = class_mask(&label, &vec![few; s[0] as usize]);
        if let Ok(mask) = mask.or(listed) {
            let (source, target) = (build(&s, Kind::Float, &a, seed ^ 2), build(&s, Kind::Float, &b, seed ^ 3));
            if let Ok(mixed) = class_mix(&mask, &source, &target) {
                prop_assert_eq!(mixed.size(), source.size());
            }
        }
    }

    #[test]
    fn augmentation(s in shape(), t in twist(), rgb: bool, sigma in prop::sample::select(&FLOATS[..]), f in prop::sample::select(&FLOATS[..]), kernel in (-1i64..15, -1i64..15), order in [0usize..5, 0..5, 0..4, 0..4], sorted: bool, seed: u64) {
        let s = [s[0], if rgb { 3 } else { s[1] }, s[2], s[3]];
        let image = build(&s, Kind::Float, &t, seed);
        if let Ok(blurred) = gaussian_blur(&image, sigma, kernel) {
            prop_assert_eq!(blurred.size(), image.size());
        }
        let order = if sorted { [3, 1, 0, 2] } else { order };
        let jitter = JitterDraw { brightness: f, contrast: 1.1, saturation: f, hue: sigma, order };
        let _ = color_jitter(&image, &vec![jitter.clone(); s[0] as usize]);
        let draw = AugmentDraw { jitter: rgb.then_some(jitter), blur_sigma: Some(sigma) };
        let (mean, std) = ([123.0, 116.0, 103.0], [58.0, 57.0, 56.0]);
        let few = mean.len().min(s[1] as usize);
        let settings = StrongAugment { mean: mean[..few].to_vec(), std: std[..few].to_vec() };
        if let Ok(out) = settings.apply(&image, &vec![draw; s[0] as usize]) {
            prop_assert_eq!(out.size(), image.size());
        }
    }

    #[test]
    fn segmentation(s in shape(), up in (0i64..3, 0i64..3), l in twist(), t in twist(), w in twist(), seed: u64, weighted: bool, all: bool) {
        let full = [s[0], s[2] * up.0 + up.1, s[3] + up.0 * up.1];
        let logits = build(&s, Kind::Float, &l, seed);
        let logits = if logits.is_floating_point() { logits.set_requires_grad(true) } else { logits };
        let label = build(&full, Kind::Int64, &t, seed ^ 1);
        let weight = build(&full, Kind::Float, &w, seed ^ 2);
        if let Ok(loss) = cross_entropy(&logits, &label, weighted.then_some(&weight), 255, average(all)) {
            prop_assert_eq!(loss.dim(), 0);
            loss.backward();
            prop_assert_eq!(logits.grad().size(), logits.size());
        }
        if let Ok(percent) = accuracy(&logits, &label, 255, average(all)) {
            let percent = percent.double_value(&[]);
            prop_assert!((0.0..=100.0).contains(&percent), "{}", percent);
        }
    }

    #[test]
    fn feature_distances(s in shape(), scale in -1i64..6, l in twist(), t in twist(), classes in -1i64..6, ratio in prop::sample::select(&FLOATS[..]), seed: u64, some: bool) {
        let label = build(&[s[0], 1, s[2] * scale.max(1), s[3] * scale.max(1)], Kind::Int64, &l, seed);
        if let Ok(small) = downscale_label(&label, scale, ratio, classes, 255) {
            let outside = small.ge(0).logical_and(&small.lt(classes)).logical_or(&small.eq(255)).logical_not();
            prop_assert_eq!(outside.any().int64_value(&[]), 0);
        }
        let (feat, other) = (build(&s, Kind::Float, &t, seed ^ 1), build(&s, Kind::Float, &t, seed ^ 2));
        let settings = FeatureDistance { form: DistanceForm::Euclidean, classes: some.then(|| vec![1, 2]), min_ratio: ratio, num_classes: classes, weight: 1.0, ignore_index: 255 };
        if let Ok(loss) = settings.forward(&SingleProcess, &feat, &other, &label) {
            prop_assert_eq!(loss.dim(), 0);
        }
    }

    #[test]
    fn counting(s in shape(), a in twist(), b in twist(), classes in -1i64..6, bytes in prop::collection::vec(any::<u8>(), 0..50), num in 0usize..300, seed: u64) {
        let (prediction, label) = (build(&s, Kind::Int64, &a, seed), build(&s, Kind::Int64, &b, seed ^ 1));
        if let Ok(matrix) = confusion_matrix(&prediction, &label, classes, 255) {
            let counted = label.to_kind(Kind::Int64).ne(255).sum(Kind::Int64).int64_value(&[]);
            prop_assert_eq!(matrix.sum(Kind::Int64).int64_value(&[]), counted);
        }
        let bytes = Tensor::f_from_slice(&bytes).unwrap();
        for (ids, ignore) in [(&label, 255), (&bytes, num as i64 - 1)] {
            if let Ok(counts) = class_counts(ids, num as i64, ignore) {
                let counted = ids.to_kind(Kind::Int64).ne(ignore).sum(Kind::Int64).int64_value(&[]);
                prop_assert_eq!(counts.sum(Kind::Int64).int64_value(&[]), counted);
            }
        }
    }

    #[test]
    fn masks_and_teacher(s in shape(), t in twist(), u in twist(), ratio in prop::sample::select(&FLOATS[..]), h in -1i64..20, w in -1i64..20, iteration in -1i64..2000, alpha in prop::sample::select(&FLOATS[..]), seed: u64) {
        if let Ok((rows, columns)) = mask_grid(h, w, s[2]) {
            prop_assert!(rows >= 1 && columns >= 1);
        }
        let (x, y) = (build(&s, Kind::Float, &t, seed), build(&s, Kind::Float, &u, seed ^ 1));
        if let Ok(mask) = block_mask(&x, ratio, h, w) {
            prop_assert_eq!(&mask.size()[2..], &[h, w]);
        }
        let _ = ema_update(&[x.shallow_clone()], &[y.shallow_clone()], iteration, alpha);
        let _ = ema_update(&[x.shallow_clone(), x.shallow_clone()], &[y.shallow_clone(), x], iteration, alpha);
    }

    #[test]
    fn released_contrasts(s in shape(), f in twist(), o in twist(), l in twist(), k in twist(), entries in 0i64..9, chunk in -1i64..6, temperature in prop::sample::select(&FLOATS[..]), seed: u64) {
        let groups = build(&[s[2], s[3], s[1]], Kind::Float, &f, seed);
        let groups = if groups.is_floating_point() { groups.set_requires_grad(true) } else { groups };
        let classes = build(&[s[2]], Kind::Int64, &l, seed ^ 1);
        if let Ok(loss) = pixel_contrast_official(&groups, &classes, temperature, 0.07) {
            prop_assert_eq!(loss.dim(), 0);
            loss.backward();
            prop_assert_eq!(groups.grad().size(), groups.size());
        }
        let rows = |t: &Twist, seed| build(&[s[2], s[1]], Kind::Float, t, seed);
        let (one, two) = (rows(&f, seed ^ 2), rows(&o, seed ^ 3));
        let (sure, surer) = (build(&[s[2]], Kind::Float, &o, seed ^ 6), build(&[s[2]], Kind::Float, &k, seed ^ 7));
        let (bank, ids) = (build(&[entries, s[1]], Kind::Float, &k, seed ^ 4), build(&[entries], Kind::Int64, &l, seed ^ 5));
        let first = View { feat_nd: &one, label_n: &classes, conf_n: &sure };
        let second = View { feat_nd: &two, label_n: &classes, conf_n: &surer };
        let gate = Gate { temperature, confidence: 0.9, chunk };
        if let Ok((first, second)) = patch_contrast_gated(first, second, &bank, &ids, &gate) {
            prop_assert_eq!((first.dim(), second.dim()), (0, 0));
        }
    }
}
