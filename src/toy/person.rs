//! People: head, trunk, arms and legs in mid-stride, facing the camera or walking across.

use super::camera::Camera;
use super::canvas::{Canvas, Sample};
use super::style::Look;
use super::texture::{noise, scale, Rgb};
use super::PERSON;

pub struct Person {
    pub x: f32,
    pub z: f32,
    pub height: f32,
    /// Half the distance between the feet, over the height.
    pub stride: f32,
    /// Shoulder half-width over the height.
    pub girth: f32,
    /// A long coat or skirt covers the thighs.
    pub coat: bool,
    pub bag: bool,
    pub upper: Rgb,
    pub lower: Rgb,
    pub skin: Rgb,
    pub hair: Rgb,
}

/// Distance of a point from a segment.
fn segment(p: (f32, f32), a: (f32, f32), b: (f32, f32)) -> f32 {
    let (dx, dy) = (b.0 - a.0, b.1 - a.1);
    let t = (((p.0 - a.0) * dx + (p.1 - a.1) * dy) / (dx * dx + dy * dy)).clamp(0.0, 1.0);
    ((p.0 - a.0 - t * dx).powi(2) + (p.1 - a.1 - t * dy).powi(2)).sqrt()
}

impl Person {
    pub fn paint(&self, camera: &Camera, look: &Look, canvas: &mut Canvas) {
        let reach = 0.4 * self.height;
        let area = camera.area(self.x - reach, self.x + reach, self.height, self.z);
        canvas.fill(area, |px, py| {
            let (x, y) = camera.on_front(px, py, self.z);
            let (u, v) = ((x - self.x) / self.height, y / self.height);
            let rgb = self.figure(u, v)?;
            // Lit from the sun's side; cloth folds.
            let light = 1.0 + 0.5 * look.shade * (u * look.sun / self.girth).clamp(-1.0, 1.0);
            let fold = 1.0 + 2.0 * look.grain * noise(u * 30.0, v * 18.0, look.seed);
            Some(Sample { rgb: scale(rgb, light * fold), class: PERSON, depth: self.z })
        });
    }

    /// Colour at a point in units of the person's height, or None outside the figure.
    fn figure(&self, u: f32, v: f32) -> Option<Rgb> {
        let p = (u, v);
        let head = ((u / 0.85).powi(2) + (v - 0.925).powi(2)).sqrt();
        if head < 0.072 {
            return Some(if v > 0.945 { self.hair } else { self.skin });
        }
        if segment(p, (0.0, 0.80), (0.0, 0.90)) < 0.03 {
            return Some(self.skin);
        }
        if self.bag && segment(p, (self.girth + 0.03, 0.42), (self.girth + 0.03, 0.52)) < 0.055 {
            return Some(scale(self.lower, 0.6));
        }
        let hem = if self.coat { 0.34 } else { 0.48 };
        let width = self.girth * (0.85 + 0.15 * ((v - 0.6) / 0.22)) - 0.02 + if v < 0.5 { 0.02 } else { 0.0 };
        if (hem..0.80).contains(&v) && u.abs() < width {
            return Some(self.upper);
        }
        if (0.78..0.825).contains(&v) && u.abs() < self.girth * 0.8 {
            return Some(self.upper);
        }
        for side in [-1.0, 1.0] {
            let hand = (side * (self.girth + 0.6 * self.stride), 0.45);
            let arm = segment(p, (side * self.girth * 0.92, 0.78), hand);
            if arm < 0.032 {
                return Some(if v < 0.48 { self.skin } else { scale(self.upper, 0.88) });
            }
            let leg = segment(p, (side * 0.045, 0.50), (side * (0.05 + self.stride), 0.03));
            if leg < 0.052 {
                return Some(if v < 0.05 { [0.1, 0.09, 0.09] } else { self.lower });
            }
        }
        None
    }
}
