use super::choice::{valid, Wanted};
use super::resize::{linear, nearest, Region};
use super::*;
use crate::host::png as label_png;
use ndarray::Array;
use std::fs;

fn plan(crop: (usize, usize)) -> Plan {
    Plan {
        scale: None,
        ratio: None,
        keep_ratio: true,
        margins: None,
        crop,
        cat_max_ratio: 1.0,
        ignore: 255,
        fill: None,
        flip: None,
    }
}

fn pixels(height: usize, width: usize) -> Array3<u8> {
    Array::from_shape_fn((height, width, 3), |(y, x, c)| (y * 31 + x * 7 + c * 101 + y * x) as u8)
}

/// The whole image resized with the same taps, then cropped and flipped by hand.
fn slow(image: &Array3<u8>, region: &Region) -> Array3<u8> {
    let (height, width) = region.resized;
    let down = linear(region.stored.0, height, 0, height, true);
    let across = linear(region.stored.1, width, 0, width, false);
    let (rows, columns) = region.covered();
    Array::from_shape_fn((3, region.crop.0, region.crop.1), |(c, y, x)| {
        let x = if region.flipped { region.crop.1 - 1 - x } else { x };
        if y >= rows || x >= columns {
            return 9;
        }
        let (y, x) = (region.top + y, region.left + x);
        if region.resized == region.stored {
            return image[[y, x, c]];
        }
        let (v, h) = (down[y], across[x]);
        let line = |row: usize| {
            let pixel = |column: usize| i32::from(image[[row, column, c]]);
            (pixel(h.first) * i32::from(h.weights[0]) + pixel(h.second) * i32::from(h.weights[1])) >> 4
        };
        let high = |row: usize, weight: i16| (line(row) * i32::from(weight)) >> 16;
        ((high(v.first, v.weights[0]) + high(v.second, v.weights[1]) + 2) >> 2) as u8
    })
}

#[test]
fn a_region_is_that_part_of_the_whole() {
    let stored = (23, 37);
    let image = pixels(stored.0, stored.1);
    for resized in [(23, 37), (40, 61), (11, 19), (24, 36), (7, 80), (46, 74)] {
        for crop in [(5, 9), (30, 40), resized] {
            let room = |length: usize, crop: usize| length.saturating_sub(crop);
            for (top, left) in [(0, 0), (room(resized.0, crop.0), room(resized.1, crop.1))] {
                for flipped in [false, true] {
                    let region = Region { top, left, stored, resized, crop, flipped };
                    let mut planes = Array3::from_elem((3, crop.0, crop.1), 9);
                    photo::cut(&photo::Pixels { pixels: image.view() }, &region, true, &mut planes);
                    assert_eq!(planes, slow(&image, &region), "{resized:?} {crop:?} {top} {left} {flipped}");
                    let (rows, columns) = region.reach();
                    assert!(rows <= stored.0 && columns <= stored.1);
                }
            }
        }
    }
}

#[test]
fn taps_at_the_ends() {
    for (stored, resized) in [(1, 1), (1, 5), (5, 1), (3, 7), (100, 33)] {
        for rows in [false, true] {
            let taps = linear(stored, resized, 0, resized, rows);
            assert!(taps.iter().all(|t| t.first <= t.second && t.second < stored));
            assert!(taps.iter().all(|t| t.weights[0] + t.weights[1] == 2048));
            assert_eq!(taps[resized / 2..], linear(stored, resized, resized / 2, resized - resized / 2, rows));
        }
        assert!(nearest(stored, resized).iter().all(|&from| from < stored));
    }
}

#[test]
fn margins_move_with_the_crop() {
    let region = Region { top: 3, left: 2, stored: (10, 8), resized: (10, 8), crop: (9, 4), flipped: true };
    let mask = valid([4, 2, 3, 1], &region);
    let expected = Array2::from_shape_fn((9, 4), |(y, x)| {
        let (y, x) = (3 + y, 2 + 3 - x);
        u8::from((4..8).contains(&y) && (3..7).contains(&x))
    });
    assert_eq!(mask, expected);
    assert_eq!(valid([9, 9, 0, 0], &region).iter().filter(|&&v| v > 0).count(), 0);
}

#[test]
fn retries_look_for_the_class_on_the_label_only() {
    let mut ids = Array2::<u8>::zeros((64, 64));
    ids.slice_mut(ndarray::s![..16, ..16]).fill(3);
    let image = pixels(64, 64);
    let (image, label) = (Image::Pixels { pixels: image.view(), bgr: true }, Label::Ids(ids.view()));
    let found = |wanted: Option<Wanted>| {
        (0..80u32)
            .filter(|&seed| {
                let sample = load(&image, Some(&label), &plan((32, 32)), &[seed], wanted, "x").expect("loads");
                sample.and_then(|s| s.label).is_some_and(|label| label.iter().filter(|&&id| id == 3).count() > 20)
            })
            .count()
    };
    let (once, often) = (found(None), found(Some(Wanted { class: 3, need: 20.0, tries: 10 })));
    assert!(often > 2 * once && once > 0, "{once} {often}");
}

#[test]
fn unusual_files_are_left_to_others() {
    let folder = std::env::temp_dir().join(format!("pipa-loader-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("temporary folder");
    let path = folder.join("a.png");
    label_png::write(&path, 5, 7, &[4; 35]).expect("writes");
    let (mut file, mut rows) = (Vec::new(), Vec::new());
    let mut read = |kind| {
        let packed = png::read(&path, kind, &mut file)?;
        packed.inflate(packed.height, &mut rows).map(|()| (packed.height, packed.width))
    };
    assert_eq!(read(png::Kind::Ids), Some((5, 7)));
    assert_eq!(read(png::Kind::Colour), None);
    let bytes = fs::read(&path).expect("bytes");
    for end in 0..bytes.len() {
        fs::write(&path, &bytes[..end]).expect("cut");
        assert_eq!(read(png::Kind::Ids), None, "cut at {end}");
    }
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x11;
        fs::write(&path, &damaged).expect("damage");
        assert_eq!(read(png::Kind::Ids), None, "damaged at {at}");
    }
    fs::remove_dir_all(&folder).expect("clean");
}
