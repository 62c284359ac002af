//! The embedded domain pair: street scenes drawn from a seed, in a synthetic-looking and in a photograph-looking style.
//!
//! | file | job |
//! |---|---|
//! | `camera.rs` | pinhole projection between metres and pixels |
//! | `canvas.rs` | supersampled buffer that is filled from near to far |
//! | `texture.rs` | value noise and colour arithmetic |
//! | `style.rs` | what differs between the two domains, and the draw of one image's appearance |
//! | `layout.rs` | which things stand where |
//! | `ground.rs` `sky.rs` `building.rs` `car.rs` `person.rs` `tree.rs` `post.rs` | how each thing looks |
//! | `film.rs` | exposure, colour cast, blur and noise of the finished picture |

mod building;
mod camera;
mod canvas;
mod car;
mod film;
mod ground;
mod layout;
mod person;
mod post;
mod sky;
mod style;
mod texture;
mod tree;

use crate::error::{Error, Result};
use crate::host::pool;
use crate::rng::Rng;
use rayon::prelude::*;

/// Names in the order of the label ids.
pub const CLASSES: [&str; 9] = ["road", "pavement", "building", "sky", "vegetation", "pole", "sign", "car", "person"];

/// One colour per class, as Cityscapes colours the same things.
pub const PALETTE: [[u8; 3]; 9] = [
    [128, 64, 128],
    [244, 35, 232],
    [70, 70, 70],
    [70, 130, 180],
    [107, 142, 35],
    [153, 153, 153],
    [220, 220, 0],
    [0, 0, 142],
    [220, 20, 60],
];

pub(crate) const ROAD: u8 = 0;
pub(crate) const PAVEMENT: u8 = 1;
pub(crate) const BUILDING: u8 = 2;
pub(crate) const SKY: u8 = 3;
pub(crate) const VEGETATION: u8 = 4;
pub(crate) const POLE: u8 = 5;
pub(crate) const SIGN: u8 = 6;
pub(crate) const CAR: u8 = 7;
pub(crate) const PERSON: u8 = 8;

/// Smallest height and width: below it the rare classes are smaller than a pixel.
pub const MIN_SIZE: usize = 32;
/// Largest height and width: a guard against a mistyped size that would fill the memory.
pub const MAX_SIZE: usize = 4096;

/// Raised whenever the same arguments give another picture, so that pictures on disk are known to be old.
pub const EDITION: u32 = 1;

/// The two styles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Domain {
    /// Clean, saturated and sharp, as a game engine renders.
    Source,
    /// Textured, noisy and blurred under changing light, as a camera sees.
    Target,
}

impl Domain {
    pub fn parse(name: &str) -> Result<Self> {
        match name {
            "source" => Ok(Self::Source),
            "target" => Ok(Self::Target),
            other => Err(Error::value(format!("domain: expected \"source\" or \"target\", got {other:?}"))),
        }
    }
}

/// A drawn scene: `image` is RGB in H x W x 3 order, `label` holds class ids in H x W order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    pub height: usize,
    pub width: usize,
    pub image: Vec<u8>,
    pub label: Vec<u8>,
}

/// Draws image `index` of a domain. It depends on the arguments alone, not on what was drawn before.
pub fn draw(domain: Domain, index: u64, seed: u64, height: usize, width: usize) -> Result<Picture> {
    for (name, size) in [("height", height), ("width", width)] {
        if !(MIN_SIZE..=MAX_SIZE).contains(&size) {
            return Err(Error::value(format!("{name}: expected {MIN_SIZE} to {MAX_SIZE} pixels, got {size}")));
        }
    }
    if index > u64::MAX / 2 {
        return Err(Error::value(format!("index: expected at most {}, got {index}", u64::MAX / 2)));
    }
    let mut rng = Rng::stream(seed, index * 2 + u64::from(domain == Domain::Target));
    let style = style::Style::of(domain);
    let look = style.look(&mut rng)?;
    let scene = layout::Scene::draw(&style, &look, height, width, &mut rng)?;
    let mut canvas = canvas::Canvas::new(height, width, look.haze, look.haze_rgb);
    scene.paint(&look, &mut canvas);
    let (rgb, label) = canvas.resolve();
    let image = film::develop(rgb, height, width, &look.film, &mut rng);
    Ok(Picture { height, width, image, label })
}

/// Draws several images of a domain in parallel.
pub fn draw_many(domain: Domain, indices: &[u64], seed: u64, height: usize, width: usize) -> Result<Vec<Picture>> {
    pool::run(|| indices.par_iter().map(|&index| draw(domain, index, seed, height, width)).collect())
}

#[cfg(test)]
mod tests;
