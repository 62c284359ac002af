//! Trees, conifers, bushes: a trunk and a crown of leafy balls whose border is ragged.

use super::camera::Camera;
use super::canvas::{Canvas, Sample};
use super::style::Look;
use super::texture::{blend, fractal, noise, scale, Rgb};
use super::VEGETATION;

/// A leafy ball: middle (x from the trunk, y up) and radius in metres.
pub type Ball = (f32, f32, f32);

pub struct Tree {
    pub x: f32,
    pub z: f32,
    pub trunk: f32,
    pub trunk_top: f32,
    pub balls: Vec<Ball>,
    pub rgb: Rgb,
    pub seed: u32,
}

impl Tree {
    pub fn paint(&self, camera: &Camera, look: &Look, canvas: &mut Canvas) {
        let reach = self.balls.iter().map(|b| b.0.abs() + 1.3 * b.2).fold(self.trunk, f32::max);
        let top = self.balls.iter().map(|b| b.1 + 1.3 * b.2).fold(self.trunk_top, f32::max);
        let area = camera.area(self.x - reach, self.x + reach, top, self.z);
        canvas.fill(area, |px, py| {
            let (x, y) = camera.on_front(px, py, self.z);
            let u = x - self.x;
            let rgb = self.crown(u, y, look).or_else(|| self.stem(u, y, look))?;
            Some(Sample { rgb, class: VEGETATION, depth: self.z })
        });
    }

    fn crown(&self, u: f32, y: f32, look: &Look) -> Option<Rgb> {
        let ragged = 1.0 + 0.30 * fractal(u * 2.5, y * 2.5, self.seed);
        let mut best: Option<(f32, f32)> = None;
        for &(bx, by, radius) in &self.balls {
            let (dx, dy) = ((u - bx) / radius, (y - by) / radius);
            let distance = (dx * dx + dy * dy).sqrt() / ragged;
            if y > 0.0 && distance < 1.0 && best.is_none_or(|(least, _)| distance < least) {
                best = Some((distance, 0.5 * dy + 0.35 * dx * look.sun));
            }
        }
        let (distance, towards_light) = best?;
        let leaf = noise(u * 7.0, y * 7.0, self.seed ^ 1);
        let clump = fractal(u * 1.6, y * 1.6, self.seed ^ 2);
        let light = 0.92 + (0.2 + 0.4 * look.shade) * towards_light - 0.18 * distance;
        let rgb = scale(self.rgb, light * (1.0 + look.grain * (2.2 * leaf + 1.8 * clump)));
        // Sunlit leaves are yellower.
        Some(blend(rgb, [0.75, 0.75, 0.30], (0.12 * towards_light).clamp(0.0, 0.1)))
    }

    fn stem(&self, u: f32, y: f32, look: &Look) -> Option<Rgb> {
        if y < 0.0 || y > self.trunk_top || u.abs() > self.trunk * (1.2 - 0.4 * y / self.trunk_top) {
            return None;
        }
        let bark = noise(u * 14.0, y * 3.0, self.seed ^ 3);
        let round = 1.0 - 0.3 * (u / self.trunk).abs();
        Some(scale([0.34, 0.26, 0.19], round * (1.0 + 2.5 * look.grain * bark)))
    }
}
