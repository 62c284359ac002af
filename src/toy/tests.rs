//! The scenes as a whole: seeded, complete, and different between the domains.

use super::*;

fn share(pictures: &[Picture], class: u8) -> f64 {
    let all: usize = pictures.iter().map(|p| p.label.len()).sum();
    let found: usize = pictures.iter().map(|p| p.label.iter().filter(|&&l| l == class).count()).sum();
    found as f64 / all as f64
}

#[test]
fn an_image_depends_on_its_own_index_alone() {
    let together = draw_many(Domain::Target, &[4, 7, 5], 3, 48, 96).unwrap();
    assert_eq!(together[1], draw(Domain::Target, 7, 3, 48, 96).unwrap());
    assert_ne!(together[0], together[2]);
    assert_ne!(draw(Domain::Source, 4, 3, 48, 96).unwrap().label, together[0].label);
    assert_ne!(draw(Domain::Target, 4, 2, 48, 96).unwrap(), together[0]);
}

#[test]
fn every_class_occurs_and_some_are_rare() {
    for domain in [Domain::Source, Domain::Target] {
        let pictures = draw_many(domain, &(0..40).collect::<Vec<_>>(), 0, 64, 128).unwrap();
        let shares: Vec<f64> = (0..CLASSES.len() as u8).map(|class| share(&pictures, class)).collect();
        assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-9, "every pixel has a class: {shares:?}");
        assert!(shares.iter().all(|&s| s > 0.0005), "{domain:?}: {shares:?}");
        for rare in [POLE, SIGN, PERSON] {
            assert!(shares[rare as usize] < 0.03, "{domain:?} {}: {shares:?}", CLASSES[rare as usize]);
        }
    }
}

#[test]
fn ground_lies_below_and_sky_above_the_horizon() {
    let picture = draw(Domain::Source, 1, 0, 64, 128).unwrap();
    let (top, bottom) = picture.label.split_at(picture.label.len() / 4);
    assert!(!top.contains(&ROAD) && !top.contains(&PAVEMENT));
    assert!(!bottom[bottom.len() / 2..].contains(&SKY));
}

#[test]
fn bad_arguments_name_themselves() {
    let text = draw(Domain::Source, 0, 0, 31, 64).unwrap_err().to_string();
    assert!(text.contains("height") && text.contains("31"), "{text}");
    let text = draw(Domain::Source, 0, 0, 64, 9).unwrap_err().to_string();
    assert!(text.contains("width") && text.contains('9'), "{text}");
    assert!(Domain::parse("sauce").unwrap_err().to_string().contains("sauce"));
}
