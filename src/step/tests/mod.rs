//! Whole iterations on a small network, without Python.

mod tiny;

use super::*;
use crate::error::Error;
use crate::group::SingleProcess;
use tch::{Device, Kind};
use tiny::{Tiny, CLASSES};

const SIDE: i64 = 32;

/// Every term on, sizes for 32 x 32 images and features of stride 4.
fn settings() -> Settings {
    Settings {
        num_classes: CLASSES,
        threshold: 0.2,
        feature_distance_weight: 0.005,
        patch_warmup: 0,
        patch_size: (16, 16),
        patch_align: 4,
        pixel_max_anchors: 64,
        pixel_max_per_class: 16,
        mask_weight: 1.0,
        mask_block: 8,
        ..Settings::default()
    }
}

/// Stripes of all classes, a few ignored pixels, noise images.
fn batch() -> Batch {
    let mut rng = Rng::new(9);
    let mut image = || rng.normals(&[2, 3, SIDE, SIDE]);
    let label: Vec<i64> =
        (0..2 * SIDE * SIDE).map(|i| if i % 97 == 0 { 255 } else { (i % SIDE) / 8 % CLASSES }).collect();
    let label = Tensor::from_slice(&label).reshape([2, SIDE, SIDE]);
    Batch { source: image(), source_label: label, target: image(), valid_mask: None }
}

fn values(report: &Report) -> Vec<(String, f64)> {
    report.scalars.iter().map(|(name, value)| (name.clone(), value.double_value(&[]))).collect()
}

fn names(report: &Report) -> Vec<&str> {
    report.scalars.iter().map(|(name, _)| name.as_str()).collect()
}

fn run(step: &mut Step, networks: &mut Tiny) -> Result<Report> {
    step.run(&SingleProcess, networks, &batch(), Call::default())
}

fn largest(tensor: &Tensor) -> f64 {
    tensor.abs().max().double_value(&[])
}

fn difference(a: &Tensor, b: &Tensor) -> f64 {
    largest(&(a - b))
}

fn copies(tensors: &[Tensor]) -> Vec<Tensor> {
    tensors.iter().map(|t| t.detach().copy()).collect()
}

#[test]
fn every_term_is_logged_and_reaches_the_student() -> Result<()> {
    let (mut step, mut networks) = (Step::new(settings(), 3), Tiny::new());
    let report = step.run(&SingleProcess, &mut networks, &batch(), Call { gradients: true, ..Call::default() })?;
    let values: std::collections::BTreeMap<_, _> = values(&report).into_iter().collect();
    let terms = ["source", "pixel", "feature_distance", "mix", "patch", "mask"];
    let mut total = 0.0;
    for term in terms {
        let loss = values[&format!("loss_{term}")];
        assert!(loss.is_finite() && loss > 0.0, "{term}: {loss}");
        for of in ["grad_norm", "encoder_grad_norm"] {
            assert!(values[&format!("{of}_{term}")] > 0.0, "{term} gives the student no gradient: {of}");
        }
        total += loss;
    }
    assert!((values["loss"] - total).abs() < 1e-5 * total);
    for name in ["acc_source", "acc_mix", "pseudo_weight"] {
        assert!((0.0..=100.0).contains(&values[name]), "{name}");
    }
    assert_eq!(values.len(), 3 * terms.len() + 4);
    assert!(largest(&networks.stem_gradient()) > 0.0);
    assert_eq!(networks.head_gradients(), [true, true]);
    assert!(!networks.frozen_have_gradients());
    assert_eq!(step.iteration, 1);
    Ok(())
}

/// One term at a time through `backward` itself: what it adds to the gradient of source-only training.
#[test]
fn each_term_alone_reaches_the_student() -> Result<()> {
    let gradient = |settings: Settings| -> Result<Tensor> {
        let mut networks = Tiny::new();
        Step::new(settings, 3).run(&SingleProcess, &mut networks, &batch(), Call::default())?;
        Ok(networks.stem_gradient())
    };
    let off = Settings { mix_weight: 0.0, pixel_weight: 0.0, patch_weight: 0.0, mask_weight: 0.0, ..settings() };
    let off = Settings { feature_distance_weight: 0.0, ..off };
    let source = gradient(off.clone())?;
    assert!(largest(&source) > 0.0);
    let alone = [
        ("pixel", Settings { pixel_weight: 0.1, ..off.clone() }),
        ("feature distance", Settings { feature_distance_weight: 0.005, ..off.clone() }),
        ("mix", Settings { mix_weight: 1.0, ..off.clone() }),
        ("patch", Settings { patch_weight: 0.1, ..off.clone() }),
        ("mask", Settings { mask_weight: 1.0, ..off.clone() }),
    ];
    for (name, settings) in alone {
        assert!(difference(&gradient(settings)?, &source) > 1e-5 * largest(&source), "{name}");
    }
    Ok(())
}

#[test]
fn the_teacher_is_the_moving_average_of_the_student() -> Result<()> {
    let (mut step, mut networks) = (Step::new(settings(), 3), Tiny::new());
    // Step 0 copies, whatever the teacher was.
    no_grad(|| networks.teacher_parameters().iter_mut().for_each(|p| drop(p.f_fill_(7.0))));
    let student = copies(&networks.student_parameters());
    run(&mut step, &mut networks)?;
    for (t, s) in networks.teacher_parameters().iter().zip(&student) {
        assert_eq!(difference(t, s), 0.0);
    }
    for t in 1..4 {
        networks.descend(0.1);
        let (teacher, student) = (copies(&networks.teacher_parameters()), copies(&networks.student_parameters()));
        run(&mut step, &mut networks)?;
        let alpha = f64::min(1.0 - 1.0 / (t as f64 + 1.0), 0.999);
        let mut moved = 0.0;
        for (i, now) in networks.teacher_parameters().iter().enumerate() {
            let expected = &teacher[i] * alpha + &student[i] * (1.0 - alpha);
            assert!(difference(now, &expected) < 1e-6, "iteration {t}");
            moved += difference(now, &teacher[i]);
        }
        assert!(moved > 0.0, "iteration {t}: the student did not change, so nothing was tested");
    }
    Ok(())
}

#[test]
fn warm_up_switches_the_patch_term_on() -> Result<()> {
    let (mut step, mut networks) = (Step::new(Settings { patch_warmup: 2, ..settings() }, 3), Tiny::new());
    for iteration in 0..4 {
        let report = run(&mut step, &mut networks)?;
        assert_eq!(names(&report).contains(&"loss_patch"), iteration >= 2, "iteration {iteration}");
        assert_eq!(report.mixed.is_some_and(|mixed| mixed.patches.is_some()), iteration >= 2);
    }
    Ok(())
}

#[test]
fn source_only_training_never_looks_at_the_target() -> Result<()> {
    let off = Settings { mix_weight: 0.0, patch_weight: 0.0, mask_weight: 0.0, ..settings() };
    let (mut step, mut networks) = (Step::new(off, 3), Tiny::new());
    let mut batch = batch();
    batch.target = batch.target.f_full_like(f64::NAN)?;
    let report = step.run(&SingleProcess, &mut networks, &batch, Call::default())?;
    assert_eq!(names(&report), ["loss_source", "acc_source", "loss_pixel", "loss_feature_distance", "loss"]);
    assert!(values(&report).iter().all(|(_, value)| value.is_finite()));
    assert_eq!(networks.calls, ["student", "imagenet", "backward"]);
    assert!(report.mixed.is_none());
    Ok(())
}

#[test]
fn same_seed_or_same_recorded_draws_give_the_same_iteration() -> Result<()> {
    let once = |seed: u64, draws: Option<Draws>| -> Result<Vec<(String, f64)>> {
        // All pixels: the sample of the pixel term is no part of the recorded draws.
        let settings = Settings { pixel_sampling: crate::loss::pixel::Sampling::All, ..settings() };
        let mut networks = Tiny::new();
        let report = Step::new(settings, seed).run(
            &SingleProcess,
            &mut networks,
            &batch(),
            Call { draws, ..Call::default() },
        )?;
        let mut all = values(&report);
        all.push(("stem".to_string(), largest(&networks.stem_gradient())));
        Ok(all)
    };
    assert_eq!(once(3, None)?, once(3, None)?);
    assert_ne!(once(3, None)?, once(4, None)?);
    let draws = Draws::new(&settings(), 2, (SIDE, SIDE), true, &mut Rng::new(11))?;
    assert_eq!(once(3, Some(draws.clone()))?, once(4, Some(draws.clone()))?);
    let other = Draws { mix: MixDraw::Classes(vec![vec![0], vec![2, 3]]), ..draws };
    assert_ne!(once(3, Some(other))?, once(3, None)?);
    Ok(())
}

#[test]
fn the_memory_bank_remembers_and_changes_the_next_iteration() -> Result<()> {
    let with = |bank: i64| -> Result<Vec<f64>> {
        let (mut step, mut networks) = (Step::new(Settings { pixel_memory_bank: bank, ..settings() }, 3), Tiny::new());
        (0..2)
            .map(|_| {
                let report = run(&mut step, &mut networks)?;
                Ok(values(&report).into_iter().find(|(name, _)| name == "loss_pixel").map_or(0.0, |(_, value)| value))
            })
            .collect()
    };
    let (without, with) = (with(0)?, with(8)?);
    assert!((without[0] - with[0]).abs() < 1e-6, "the bank is empty in the first iteration");
    assert!((without[1] - with[1]).abs() > 1e-6, "the bank has keys in the second iteration");
    Ok(())
}

/// NaN in each student pass in turn: an error that names the term, and a stream of random numbers that did not move.
#[test]
fn a_failed_iteration_leaves_counter_and_random_numbers() -> Result<()> {
    for (pass, term) in [(0, "source"), (1, "mix"), (2, "patch"), (3, "mask")] {
        let settings = Settings { pixel_memory_bank: 8, ..settings() };
        let (mut step, mut networks) = (Step::new(settings, 3), Tiny::new());
        run(&mut step, &mut networks)?;
        networks.calls.clear();
        networks.broken_from = Some(pass);
        let (rng, iteration) = (step.rng.state(), step.iteration);
        let bank = step.bank.as_ref().map(|bank| copies(&[bank.feat_sd.shallow_clone(), bank.next_c.shallow_clone()]));
        let student = copies(&networks.student_parameters());
        match run(&mut step, &mut networks) {
            Err(Error::NonFinite(text)) => {
                assert!(text.contains(&format!("'{term}'")) && text.contains("iteration 1"), "{text}");
            }
            other => panic!("pass {pass}: expected an error, got {:?}", other.map(|report| values(&report))),
        }
        assert_eq!((step.rng.state(), step.iteration), (rng, iteration));
        if let (Some(before), Some(now)) = (bank, &step.bank) {
            assert_eq!(difference(&before[0], &now.feat_sd), 0.0, "pass {pass}: the bank kept a failed iteration");
            assert_eq!(difference(&before[1], &now.next_c), 0.0);
        }
        for (before, now) in student.iter().zip(networks.student_parameters()) {
            assert_eq!(difference(before, &now), 0.0);
        }
    }
    Ok(())
}

#[test]
fn a_batch_that_does_not_fit_is_an_error_that_names_the_argument() {
    type Change = fn(&mut Batch);
    let cases: [(&str, &str, Change); 11] = [
        ("source image", "rank", |b| b.source = b.source.get(0)),
        ("source image", "dtype", |b| b.source = b.source.to_kind(Kind::Uint8)),
        ("target image", "rank", |b| b.target = b.target.get(0)),
        ("target image", "dtype", |b| b.target = b.target.to_kind(Kind::Int64)),
        ("target image", "size", |b| b.target = b.target.narrow(2, 0, 16)),
        ("target image", "batch", |b| b.target = b.target.narrow(0, 0, 1)),
        ("source label", "size", |b| b.source_label = b.source_label.narrow(1, 0, 16)),
        ("source label", "dtype", |b| b.source_label = b.source_label.to_kind(Kind::Float)),
        ("source label", "id", |b| drop(b.source_label.get(0).get(5).f_fill_(CLASSES))),
        ("source label", "negative id", |b| drop(b.source_label.get(0).get(5).f_fill_(-1))),
        ("valid mask", "size", |b| b.valid_mask = Some(Tensor::ones([2, 8, 8], (Kind::Float, Device::Cpu)))),
    ];
    for (name, what, change) in cases {
        let mut batch = batch();
        change(&mut batch);
        let (mut step, mut networks) = (Step::new(settings(), 3), Tiny::new());
        let error = match step.run(&SingleProcess, &mut networks, &batch, Call::default()) {
            Err(error) => error,
            Ok(_) => panic!("{name}: a wrong {what} was accepted"),
        };
        let fits = match what {
            "dtype" => matches!(error, Error::DType(_)),
            "id" | "negative id" => matches!(error, Error::Value(_)),
            _ => matches!(error, Error::Shape(_)),
        };
        let text = error.to_string();
        assert!(fits && text.starts_with(name), "{name}, wrong {what}: {error:?}");
        assert_eq!(step.iteration, 0);
        // Nothing ran on a bad batch.
        assert!(networks.calls.is_empty(), "{name}, wrong {what}: {:?}", networks.calls);
    }
}

#[test]
fn wrong_networks_are_named() {
    let (mut step, mut networks) = (Step::new(Settings { num_classes: CLASSES + 1, ..settings() }, 3), Tiny::new());
    let error = run(&mut step, &mut networks).err().map(|e| e.to_string()).unwrap_or_default();
    assert!(error.contains("student logits") && error.contains("num_classes"), "{error}");
    let mut step = Step::new(Settings { patch_size: (64, 64), ..settings() }, 3);
    let error = run(&mut step, &mut Tiny::new()).err().map(|e| e.to_string()).unwrap_or_default();
    assert!(error.contains("patch sampler") && error.contains("64"), "{error}");
}
