//! Road with lane marks, kerb, pavement, verge, junction, and the shadows that fall on them.

use super::camera::{Area, Camera};
use super::canvas::{Canvas, Sample};
use super::style::Look;
use super::texture::{blend, cell, fractal, noise, scale, step, Rgb};
use super::{PAVEMENT, ROAD, VEGETATION};

/// A dark ellipse on the ground, in metres.
pub struct Blot {
    pub x: f32,
    pub z: f32,
    pub half_x: f32,
    pub half_z: f32,
}

pub struct Ground {
    pub road_half: f32,
    pub pavement: f32,
    /// Side streets leave the road between these depths.
    pub junction: Option<(f32, f32)>,
    /// Zebra crossing from this depth on.
    pub crossing: Option<f32>,
    pub lanes: usize,
    /// Grass lies beyond the pavement on the left, on the right.
    pub verge: [bool; 2],
    /// How far the facades' shadow reaches into the street from the sun's side, in metres.
    pub facade_shadow: f32,
    pub blots: Vec<Blot>,
}

const ZEBRA: f32 = 3.0;

impl Ground {
    pub fn paint(&self, camera: &Camera, look: &Look, canvas: &mut Canvas) {
        let whole = canvas.whole();
        let area = Area { top: camera.horizon.max(0.0), ..whole };
        canvas.fill(area, |px, py| {
            let (x, z) = camera.on_level(px, py, 0.0)?;
            if z > 400.0 {
                return None;
            }
            let lateral = x - camera.street(0.0, z);
            let (rgb, class) = self.surface(lateral, z, look);
            Some(Sample { rgb: scale(rgb, self.light(x, lateral, z, look)), class, depth: z.min(120.0) })
        });
    }

    fn surface(&self, lateral: f32, z: f32, look: &Look) -> (Rgb, u8) {
        let side = lateral.abs();
        let in_junction = self.junction.is_some_and(|(near, far)| z > near && z < far);
        // Fine texture would only alias far away.
        let grain = look.grain / (1.0 + 0.04 * z);
        let seed = look.seed ^ 0x60D;
        if side < self.road_half || in_junction {
            return (self.road(lateral, z, in_junction, grain, seed, look), ROAD);
        }
        let fine = noise(lateral * 9.0, z * 9.0, seed);
        if side > self.road_half + self.pavement && self.verge[usize::from(lateral > 0.0)] {
            let tuft = fractal(lateral * 3.0, z * 2.0, seed ^ 7);
            return (scale(look.grass, 1.0 + grain * (3.0 * tuft + 2.0 * fine)), VEGETATION);
        }
        let kerb = side < self.road_half + 0.18;
        let (u, v) = (lateral / 0.8, z / 1.1);
        let joint = (u - u.floor()).min(v - v.floor()) < 0.06 && z < 25.0;
        let slab = cell(u.floor() as i32, v.floor() as i32, seed) - 0.5;
        let tone = 1.0 + grain * (2.0 * slab + 1.2 * fine + fractal(lateral * 0.5, z * 0.5, seed ^ 9));
        let tone = tone
            * if kerb {
                1.12
            } else if joint {
                1.0 - 1.5 * grain
            } else {
                1.0
            };
        (scale(look.pavement, tone), PAVEMENT)
    }

    fn road(&self, lateral: f32, z: f32, in_junction: bool, grain: f32, seed: u32, look: &Look) -> Rgb {
        let fine = noise(lateral * 12.0, z * 12.0, seed);
        let stain = fractal(lateral * 0.6, z * 0.25, seed ^ 3);
        // Repaired rectangles, more of them the stronger the texture.
        let patch = cell((lateral / 2.2).floor() as i32, (z / 4.0).floor() as i32, seed ^ 5);
        let patch = if patch < 2.0 * look.grain { -1.4 } else { 0.0 };
        let width = 2.0 * self.road_half / self.lanes as f32;
        let in_lane = (lateral + self.road_half) / width;
        let track = (in_lane - in_lane.floor() - 0.5).abs();
        let track = if track > 0.15 && track < 0.33 { -0.5 } else { 0.0 };
        let base = scale(look.road, 1.0 + grain * (1.3 * fine + 1.5 * stain + patch + track));
        let kept = step(look.wear - 0.35, look.wear + 0.1, 0.5 + 0.5 * fractal(lateral * 2.0, z * 1.3, seed ^ 11));
        if kept > 0.0 && self.marked(lateral, z, in_lane, in_junction) {
            return blend(base, [0.88, 0.88, 0.85], kept * (1.0 - 0.4 * look.wear));
        }
        base
    }

    fn marked(&self, lateral: f32, z: f32, in_lane: f32, in_junction: bool) -> bool {
        if let Some(near) = self.crossing {
            if z > near - 0.5 && z < near + ZEBRA + 0.5 {
                let stripe = lateral / 1.0;
                return z > near && z < near + ZEBRA && stripe - stripe.floor() < 0.5;
            }
        }
        if in_junction || z > 90.0 {
            return false;
        }
        let border = self.road_half - lateral.abs();
        let dash = z / 6.0 - (z / 6.0).floor() < 0.5;
        let line = (in_lane - in_lane.round()).abs() * 2.0 * self.road_half / (self.lanes as f32) < 0.09;
        (border > 0.25 && border < 0.40) || (line && dash && border > 1.0)
    }

    /// Share of light that reaches a place.
    fn light(&self, x: f32, lateral: f32, z: f32, look: &Look) -> f32 {
        let mut dark: f32 = 0.0;
        let from_facade = self.road_half + self.pavement - lateral * look.sun;
        let edge = self.facade_shadow * (1.0 + 0.25 * noise(z / 9.0, 0.0, look.seed ^ 0x5AD));
        let open = self.junction.is_some_and(|(near, far)| z > near && z < far);
        if !open {
            dark = dark.max(look.shadow * (1.0 - step(edge - 0.15, edge + 0.15, from_facade)));
        }
        for blot in &self.blots {
            let (dx, dz) = ((x - blot.x) / blot.half_x, (z - blot.z) / blot.half_z);
            let distance = dx * dx + dz * dz;
            if distance < 1.5 {
                dark = dark.max((0.25 + 0.6 * look.shadow) * (1.0 - step(0.5, 1.5, distance)));
            }
        }
        1.0 - dark
    }
}
