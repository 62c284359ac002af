//! The sampler with random maps and settings. `PROPTEST_CASES` sets the number of cases.

use super::*;
use crate::rng::Rng;
use proptest::prelude::*;
use std::collections::{HashMap, HashSet};

fn cases() -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(2000);
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn quotas_hold(
        (b, h, w) in (0usize..3, 0usize..7, 0usize..7),
        ids in prop::collection::vec(prop_oneof![0i64..4, Just(255i64), any::<i64>()], 108),
        predicted in prop::collection::vec(0i64..4, 108),
        (max_anchors, max_per_class) in (2i64..40, 2i64..12),
        min_pixels in -1i64..6,
        per_image: bool,
        with_prediction: bool,
        seed: u64,
    ) {
        let pixels = b * h * w;
        let size = [b as i64, h as i64, w as i64];
        let map = |v: &[i64]| Tensor::f_from_slice(&v[..pixels]).and_then(|t| t.f_reshape(size)).unwrap();
        let sampler = AnchorSampler { max_anchors, max_per_class, min_pixels, ignore_index: 255, per_image };
        let prediction = with_prediction.then(|| map(&predicted));
        let anchors = sampler.draw(&map(&ids), prediction.as_ref(), &mut Rng::new(seed)).unwrap();
        let index = Vec::<i64>::try_from(&anchors.index_n).unwrap();
        prop_assert_eq!(anchors.valid_n.size()[0] as usize, index.len());
        prop_assert!(index.len() as i64 <= max_anchors);
        prop_assert_eq!(index.iter().collect::<HashSet<_>>().len(), index.len());

        let priority: Vec<f32> = ids[..pixels].iter().map(|id| [0.5, -0.0, 0.0, f32::NAN, 0.25][(id & 3) as usize]).collect();
        let priority = Tensor::f_from_slice(&priority).and_then(|t| t.f_reshape(size)).unwrap();
        let fast = sampler.choose(&map(&ids), prediction.as_ref(), &priority).unwrap();
        if pixels > 0 {
            let sorted = sampler.choose_by_sorting(&map(&ids), prediction.as_ref(), &priority).unwrap();
            prop_assert!(fast.index_n.equal(&sorted.index_n) && fast.valid_n.equal(&sorted.valid_n));
        }

        let group = |i: usize| (if per_image { i / (h * w) } else { 0 }, ids[i]);
        let mut all: HashMap<_, i64> = HashMap::new();
        (0..pixels).for_each(|i| *all.entry(group(i)).or_default() += 1);
        all.retain(|&(_, id), count| id != 255 && *count >= min_pixels.max(1));
        let quota = (max_anchors / (all.len() as i64).max(1)).clamp(2, max_per_class);
        let mut taken: HashMap<_, i64> = HashMap::new();
        index.iter().for_each(|&i| *taken.entry(group(i as usize)).or_default() += 1);
        for (key, count) in &taken {
            prop_assert!(all.contains_key(key) && *count <= quota);
        }
        // Unless two per class are more than allowed in all, every class has its full share.
        if quota * all.len() as i64 <= max_anchors {
            for (key, count) in &all {
                prop_assert_eq!(taken.get(key).copied().unwrap_or(0), quota.min(*count));
            }
        }
    }

    #[test]
    fn hostile_settings_are_errors_not_panics(
        settings in prop::array::uniform4(prop_oneof![any::<i64>(), -2i64..5]),
        label in prop::collection::vec(any::<i64>(), 12),
        seed: u64,
    ) {
        let sampler = AnchorSampler {
            max_anchors: settings[0], max_per_class: settings[1], min_pixels: settings[2],
            ignore_index: settings[3], per_image: false,
        };
        let label = Tensor::f_from_slice(&label).and_then(|t| t.f_view([1i64, 3, 4])).unwrap();
        let outcome = sampler.draw(&label, None, &mut Rng::new(seed));
        prop_assert_eq!(outcome.is_ok(), settings[0] >= 2 && settings[1] >= 2);
    }
}
