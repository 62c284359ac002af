//! What differs between the two domains: palette, texture, light, camera and layout. Every number of the gap is here.

use super::film::Film;
use super::texture::Rgb;
use super::Domain;
use crate::error::Result;
use crate::rng::Rng;

/// Lowest and highest value of a uniform draw.
pub type Range = (f32, f32);

pub fn within(rng: &mut Rng, range: Range) -> f32 {
    rng.uniform(f64::from(range.0), f64::from(range.1)) as f32
}

pub fn chance(rng: &mut Rng, probability: f32) -> bool {
    rng.uniform(0.0, 1.0) < f64::from(probability)
}

/// One of `colours`, each channel moved by up to `spread`, and the whole lighter or darker by up to twice that.
pub fn tint(rng: &mut Rng, colours: &[Rgb], spread: f32) -> Result<Rgb> {
    let base = colours[rng.below(colours.len())?];
    let light = 1.0 + within(rng, (-2.0 * spread, 2.0 * spread));
    Ok(base.map(|v| (v * light + within(rng, (-spread, spread))).clamp(0.02, 1.0)))
}

/// Colours of the things of a domain.
pub struct Palette {
    pub road: &'static [Rgb],
    pub pavement: &'static [Rgb],
    pub grass: &'static [Rgb],
    pub wall: &'static [Rgb],
    pub roof: &'static [Rgb],
    pub glass: &'static [Rgb],
    pub sky_top: &'static [Rgb],
    pub sky_low: &'static [Rgb],
    pub leaf: &'static [Rgb],
    pub metal: &'static [Rgb],
    pub sign: &'static [Rgb],
    pub paint: &'static [Rgb],
    pub cloth: &'static [Rgb],
    pub skin: &'static [Rgb],
    /// How far colours stray from these lists.
    pub spread: f32,
}

/// Where the camera stands and how full the street is. Lengths in metres, counts per image, chances in 0..1.
pub struct Plan {
    pub camera_height: Range,
    /// Focal length over image width.
    pub focal: Range,
    /// Row of the horizon over image height.
    pub horizon: Range,
    pub bend: f32,
    pub road_half: Range,
    pub pavement: Range,
    pub storeys: Range,
    pub gap: f32,
    pub junction: f32,
    pub verge: f32,
    pub parked: f32,
    pub moving: f32,
    pub crossing: f32,
    pub persons: (usize, usize),
    pub jaywalk: f32,
    pub trees: f32,
    pub posts: f32,
    pub signs: f32,
}

pub struct Style {
    pub palette: Palette,
    pub plan: Plan,
    grain: Range,
    shade: Range,
    shadow: Range,
    haze: Range,
    cloud: Range,
    wear: Range,
    exposure: Range,
    contrast: Range,
    saturation: Range,
    /// Gain of each channel at full cast.
    casts: &'static [Rgb],
    vignette: Range,
    glare: Range,
    blur: Range,
    noise: Range,
}

/// The look of one image.
pub struct Look {
    /// Strength of every texture, about the deviation of brightness it adds.
    pub grain: f32,
    pub seed: u32,
    /// -1: the sun stands left, 1: right.
    pub sun: f32,
    /// Light lost on sides that face away from the sun.
    pub shade: f32,
    /// Light lost in cast shadows.
    pub shadow: f32,
    pub haze: f32,
    pub haze_rgb: Rgb,
    pub cloud: f32,
    /// Share of the lane marks that is worn off.
    pub wear: f32,
    pub road: Rgb,
    pub pavement: Rgb,
    pub grass: Rgb,
    pub sky_top: Rgb,
    pub sky_low: Rgb,
    pub film: Film,
}

impl Style {
    pub fn of(domain: Domain) -> Self {
        match domain {
            Domain::Source => source(),
            Domain::Target => target(),
        }
    }

    pub fn look(&self, rng: &mut Rng) -> Result<Look> {
        let p = &self.palette;
        let sky_low = tint(rng, p.sky_low, p.spread)?;
        Ok(Look {
            grain: within(rng, self.grain),
            seed: rng.u64() as u32,
            sun: if chance(rng, 0.5) { 1.0 } else { -1.0 },
            shade: within(rng, self.shade),
            shadow: within(rng, self.shadow),
            haze: within(rng, self.haze),
            haze_rgb: sky_low,
            cloud: within(rng, self.cloud),
            wear: within(rng, self.wear),
            road: tint(rng, p.road, p.spread)?,
            pavement: tint(rng, p.pavement, p.spread)?,
            grass: tint(rng, p.grass, p.spread)?,
            sky_top: tint(rng, p.sky_top, p.spread)?,
            sky_low,
            film: Film {
                exposure: within(rng, self.exposure),
                contrast: within(rng, self.contrast),
                saturation: within(rng, self.saturation),
                cast: self.casts[rng.below(self.casts.len())?],
                vignette: within(rng, self.vignette),
                glare: within(rng, self.glare),
                glare_at: (within(rng, (0.0, 1.0)), within(rng, (0.0, 0.4))),
                blur: within(rng, self.blur),
                noise: within(rng, self.noise),
            },
        })
    }
}

/// A game engine: saturated colours, flat surfaces, hard noon light, sharp pixels, a wide and orderly street.
fn source() -> Style {
    Style {
        palette: Palette {
            road: &[[0.30, 0.30, 0.32], [0.36, 0.35, 0.34], [0.25, 0.26, 0.29]],
            pavement: &[[0.66, 0.62, 0.56], [0.60, 0.60, 0.60], [0.70, 0.60, 0.52]],
            grass: &[[0.36, 0.60, 0.22], [0.42, 0.58, 0.25]],
            wall: &[
                [0.78, 0.66, 0.50],
                [0.70, 0.42, 0.32],
                [0.82, 0.78, 0.66],
                [0.56, 0.48, 0.44],
                [0.64, 0.68, 0.74],
                [0.76, 0.55, 0.42],
            ],
            roof: &[[0.60, 0.26, 0.20], [0.40, 0.36, 0.36]],
            glass: &[[0.30, 0.46, 0.62], [0.22, 0.32, 0.44], [0.50, 0.66, 0.78]],
            sky_top: &[[0.30, 0.55, 0.92], [0.36, 0.62, 0.95], [0.52, 0.68, 0.88]],
            sky_low: &[[0.70, 0.85, 0.98], [0.80, 0.88, 0.96]],
            leaf: &[[0.22, 0.52, 0.18], [0.30, 0.60, 0.20], [0.18, 0.44, 0.22]],
            metal: &[[0.58, 0.60, 0.62], [0.28, 0.30, 0.34], [0.78, 0.78, 0.78]],
            sign: &[[0.90, 0.12, 0.12], [0.10, 0.30, 0.85], [0.98, 0.82, 0.08]],
            paint: &[
                [0.82, 0.12, 0.12],
                [0.12, 0.26, 0.72],
                [0.92, 0.76, 0.12],
                [0.90, 0.90, 0.92],
                [0.14, 0.50, 0.30],
                [0.16, 0.16, 0.18],
                [0.88, 0.46, 0.10],
            ],
            cloth: &[
                [0.85, 0.20, 0.25],
                [0.20, 0.35, 0.80],
                [0.92, 0.85, 0.30],
                [0.20, 0.62, 0.40],
                [0.90, 0.90, 0.90],
                [0.60, 0.25, 0.65],
                [0.22, 0.22, 0.26],
            ],
            skin: &[[0.92, 0.74, 0.62], [0.62, 0.44, 0.34]],
            spread: 0.05,
        },
        plan: Plan {
            camera_height: (1.5, 1.9),
            focal: (0.72, 0.85),
            horizon: (0.38, 0.46),
            bend: 0.0015,
            road_half: (4.2, 5.6),
            pavement: (2.5, 4.0),
            storeys: (2.0, 7.0),
            gap: 0.2,
            junction: 0.3,
            verge: 0.35,
            parked: 0.35,
            moving: 0.45,
            crossing: 0.10,
            persons: (1, 7),
            jaywalk: 0.15,
            trees: 0.40,
            posts: 0.55,
            signs: 0.50,
        },
        grain: (0.02, 0.05),
        shade: (0.15, 0.35),
        shadow: (0.25, 0.45),
        haze: (0.0, 0.005),
        cloud: (0.0, 0.7),
        wear: (0.0, 0.15),
        exposure: (0.85, 1.12),
        contrast: (1.00, 1.15),
        saturation: (0.90, 1.25),
        casts: &[[1.0, 1.0, 1.0], [1.04, 1.0, 0.95], [0.96, 1.0, 1.05]],
        vignette: (0.0, 0.05),
        glare: (0.0, 0.0),
        blur: (0.0, 0.45),
        noise: (0.005, 0.018),
    }
}

/// A camera behind a windscreen: dull colours, worn surfaces, changing light, haze, blur, noise, a narrow full street.
fn target() -> Style {
    Style {
        palette: Palette {
            road: &[[0.36, 0.36, 0.36], [0.42, 0.41, 0.39], [0.30, 0.31, 0.33]],
            pavement: &[[0.56, 0.53, 0.50], [0.50, 0.48, 0.47], [0.60, 0.54, 0.47]],
            grass: &[[0.32, 0.42, 0.20], [0.42, 0.42, 0.24], [0.27, 0.37, 0.19]],
            wall: &[
                [0.62, 0.58, 0.50],
                [0.52, 0.46, 0.40],
                [0.72, 0.70, 0.66],
                [0.42, 0.40, 0.39],
                [0.56, 0.44, 0.36],
                [0.64, 0.62, 0.62],
            ],
            roof: &[[0.40, 0.28, 0.24], [0.30, 0.30, 0.31]],
            glass: &[[0.24, 0.26, 0.28], [0.34, 0.37, 0.40], [0.52, 0.55, 0.57]],
            sky_top: &[[0.62, 0.73, 0.84], [0.46, 0.62, 0.84], [0.74, 0.80, 0.86]],
            sky_low: &[[0.84, 0.87, 0.89], [0.78, 0.83, 0.87], [0.90, 0.89, 0.87]],
            leaf: &[[0.20, 0.31, 0.15], [0.28, 0.36, 0.16], [0.36, 0.34, 0.18], [0.15, 0.26, 0.16]],
            metal: &[[0.54, 0.55, 0.55], [0.22, 0.23, 0.24], [0.66, 0.66, 0.65]],
            sign: &[[0.66, 0.20, 0.18], [0.22, 0.32, 0.56], [0.74, 0.66, 0.26], [0.80, 0.80, 0.78]],
            paint: &[
                [0.16, 0.16, 0.18],
                [0.60, 0.61, 0.62],
                [0.78, 0.78, 0.78],
                [0.34, 0.35, 0.38],
                [0.22, 0.26, 0.36],
                [0.44, 0.16, 0.15],
            ],
            cloth: &[
                [0.16, 0.17, 0.20],
                [0.26, 0.28, 0.34],
                [0.40, 0.36, 0.32],
                [0.28, 0.44, 0.32],
                [0.62, 0.60, 0.56],
                [0.24, 0.38, 0.52],
                [0.58, 0.50, 0.26],
                [0.70, 0.22, 0.20],
                [0.78, 0.77, 0.74],
            ],
            skin: &[[0.74, 0.58, 0.48], [0.46, 0.34, 0.27]],
            spread: 0.06,
        },
        plan: Plan {
            camera_height: (1.2, 1.5),
            focal: (0.80, 1.0),
            horizon: (0.42, 0.54),
            bend: 0.003,
            road_half: (3.8, 5.0),
            pavement: (2.2, 3.6),
            storeys: (3.0, 6.0),
            gap: 0.15,
            junction: 0.25,
            verge: 0.25,
            parked: 0.55,
            moving: 0.35,
            crossing: 0.10,
            persons: (2, 8),
            jaywalk: 0.20,
            trees: 0.45,
            posts: 0.55,
            signs: 0.50,
        },
        grain: (0.05, 0.09),
        shade: (0.05, 0.40),
        shadow: (0.10, 0.50),
        haze: (0.001, 0.007),
        cloud: (0.1, 0.9),
        wear: (0.2, 0.8),
        exposure: (0.80, 1.12),
        contrast: (0.80, 1.05),
        saturation: (0.80, 1.10),
        casts: &[[1.0, 1.0, 1.0], [0.95, 1.03, 0.97], [0.94, 1.0, 1.06], [1.06, 1.0, 0.92]],
        vignette: (0.10, 0.30),
        glare: (0.0, 0.25),
        blur: (0.35, 0.65),
        noise: (0.012, 0.026),
    }
}
