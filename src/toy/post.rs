//! Poles: street lamps, sign posts and traffic lights. The plate and the light's box are signs, the rest is a pole.

use super::camera::Camera;
use super::canvas::{Canvas, Sample};
use super::style::Look;
use super::texture::{noise, scale, Rgb};
use super::{POLE, SIGN};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    Bare,
    /// An arm over the street with a lamp at its end.
    Lamp,
    Disc,
    Triangle,
    Square,
    TrafficLight,
}

pub struct Post {
    pub x: f32,
    pub z: f32,
    pub height: f32,
    /// Half the thickness in metres.
    pub half: f32,
    pub head: Head,
    /// Half the size of the plate in metres.
    pub plate: f32,
    pub rgb: Rgb,
    pub plate_rgb: Rgb,
}

const WHITE: Rgb = [0.90, 0.90, 0.88];

impl Post {
    pub fn paint(&self, camera: &Camera, look: &Look, canvas: &mut Canvas) {
        let reach = if self.head == Head::Lamp { 2.2 } else { self.plate.max(self.half) };
        let area = camera.area(self.x - reach, self.x + reach, self.height + 0.3, self.z);
        // Towards the middle of the street.
        let inwards = -self.x.signum();
        canvas.fill(area, |px, py| {
            let (x, y) = camera.on_front(px, py, self.z);
            let u = x - self.x;
            if let Some(rgb) = self.plate(u, y) {
                let dirt = 1.0 + look.grain * noise(u * 8.0, y * 8.0, look.seed);
                return Some(Sample { rgb: scale(rgb, dirt), class: SIGN, depth: self.z });
            }
            self.pole(u, y, inwards).then(|| {
                let round = 1.0 + 0.35 * (u / self.half).clamp(-1.0, 1.0) * look.sun;
                let rust = 1.0 + 1.5 * look.grain * noise(u * 9.0, y * 2.0, look.seed ^ 4);
                Sample { rgb: scale(self.rgb, round * rust), class: POLE, depth: self.z }
            })
        });
    }

    fn pole(&self, u: f32, y: f32, inwards: f32) -> bool {
        if y < 0.0 {
            return false;
        }
        if u.abs() < self.half && y < self.height {
            return true;
        }
        let along = u * inwards;
        self.head == Head::Lamp
            && along > 0.0
            && ((along < 2.0 && (y - self.height).abs() < self.half * 0.8)
                || ((1.5..2.2).contains(&along) && (y - self.height + 0.08).abs() < 0.14))
    }

    /// Colour of the plate or light box, or None outside of it.
    fn plate(&self, u: f32, y: f32) -> Option<Rgb> {
        let size = self.plate;
        let v = y - (self.height - size);
        let border = match self.head {
            Head::Bare | Head::Lamp => return None,
            Head::Disc => (u * u + v * v).sqrt() / size,
            Head::Square => u.abs().max(v.abs()) / (0.9 * size),
            // Upward triangle: distance to its three sides.
            Head::Triangle => {
                let (a, b) = (u.abs() * 0.87 + v * 0.5, -v);
                a.max(b) / (0.62 * size)
            }
            Head::TrafficLight => return self.traffic_light(u, v),
        };
        match border {
            b if b > 1.0 => None,
            b if b > 0.72 => Some(self.plate_rgb),
            b if self.head == Head::Square => Some(if b > 0.62 { WHITE } else { self.plate_rgb }),
            b if b < 0.25 => Some([0.15, 0.15, 0.16]),
            _ => Some(WHITE),
        }
    }

    fn traffic_light(&self, u: f32, v: f32) -> Option<Rgb> {
        let (half_width, half_height) = (0.5 * self.plate, self.plate);
        if u.abs() > half_width || v.abs() > half_height {
            return None;
        }
        let lamps = [([0.95, 0.15, 0.10], 0.62), ([0.30, 0.24, 0.08], 0.0), ([0.08, 0.24, 0.12], -0.62)];
        for (rgb, at) in lamps {
            if (u * u + (v - at * half_height).powi(2)).sqrt() < 0.5 * half_width {
                return Some(rgb);
            }
        }
        Some([0.10, 0.11, 0.11])
    }
}
