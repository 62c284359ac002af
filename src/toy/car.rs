//! Cars and vans as boxes with a profile: the end towards the camera, the side towards the street's middle, the top.

use super::camera::{Area, Camera};
use super::canvas::{Canvas, Sample};
use super::style::Look;
use super::texture::{blend, noise, scale, Rgb};
use super::CAR;

const TYRE: Rgb = [0.07, 0.07, 0.08];
const WHEEL: f32 = 0.34;

pub struct Car {
    /// World x of the middle.
    pub x: f32,
    /// Depth of the end towards the camera.
    pub z: f32,
    pub width: f32,
    pub length: f32,
    pub height: f32,
    /// Height of the bonnet.
    pub deck: f32,
    /// Where the cabin begins and ends, as shares of the length from the near end.
    pub cabin: (f32, f32),
    /// The near end is the rear.
    pub rear: bool,
    /// The car stands across the street: its side faces the camera.
    pub across: bool,
    pub rgb: Rgb,
    pub glass: Rgb,
}

impl Car {
    pub fn paint(&self, camera: &Camera, look: &Look, canvas: &mut Canvas) {
        if self.across {
            let left = self.x - self.length / 2.0;
            let area = camera.area(left, left + self.length, self.height, self.z);
            canvas.fill(area, |px, py| {
                let (x, y) = camera.on_front(px, py, self.z);
                self.side((x - left) / self.length, y, look).map(|rgb| self.sample(rgb, self.z))
            });
            return;
        }
        let (left, right) = (self.x - self.width / 2.0, self.x + self.width / 2.0);
        let (a, b) = (self.z + self.cabin.0 * self.length, self.z + self.cabin.1 * self.length);
        let facing = |canvas: &mut Canvas, z: f32, heights: std::ops::Range<f32>| {
            canvas.fill(camera.area(left, right, self.height, z), |px, py| {
                let (x, y) = camera.on_front(px, py, z);
                let rgb = self.end((x - self.x) / (self.width / 2.0), y, look).filter(|_| heights.contains(&y))?;
                Some(self.sample(rgb, z))
            });
        };
        facing(canvas, self.z, 0.0..self.deck);
        self.top(camera, canvas, self.deck, (self.z, a), self.width / 2.0);
        facing(canvas, a, self.deck..self.height);
        let wall = if self.x > 0.0 { left } else { right };
        // Only a side that the camera can see; right above the middle neither is.
        if wall * self.x > 0.0 {
            let far = self.z + self.length;
            let columns = [camera.column(wall, self.z), camera.column(wall, far)];
            let near = camera.area(left, right, self.height, self.z);
            let area = Area { left: columns[0].min(columns[1]), right: columns[0].max(columns[1]), ..near };
            let light = if wall * look.sun < 0.0 { 1.05 } else { 1.0 - 0.6 * look.shade };
            canvas.fill(area, |px, py| {
                let (y, z) = camera.on_side(px, py, wall)?;
                self.side((z - self.z) / self.length, y, look).map(|rgb| self.sample(scale(rgb, light), z))
            });
        }
        self.top(camera, canvas, self.height, (a, b), 0.42 * self.width);
        self.top(camera, canvas, self.deck, (b, self.z + self.length), self.width / 2.0);
    }

    /// The horizontal plate at height `y`, seen when the camera is above it.
    fn top(&self, camera: &Camera, canvas: &mut Canvas, y: f32, z: (f32, f32), half: f32) {
        if camera.height <= y {
            return;
        }
        let near = camera.area(self.x - half, self.x + half, y, z.0);
        let far = camera.area(self.x - half, self.x + half, y, z.1);
        let area = Area {
            left: near.left.min(far.left),
            right: near.right.max(far.right),
            top: camera.row(y, z.1),
            bottom: camera.row(y, z.0),
        };
        canvas.fill(area, |px, py| {
            let (x, depth) = camera.on_level(px, py, y)?;
            let inside = (x - self.x).abs() < half && (z.0..z.1).contains(&depth);
            inside.then(|| self.sample(scale(self.rgb, 1.12), depth))
        });
    }

    fn sample(&self, rgb: Rgb, depth: f32) -> Sample {
        Sample { rgb, class: CAR, depth }
    }

    /// Paint with a highlight on the shoulder and dirt below.
    fn body(&self, u: f32, y: f32, look: &Look) -> Rgb {
        let shoulder = 1.0 - ((y - 0.85 * self.deck) / 0.25).powi(2);
        let dirt = look.grain * (1.0 - y / self.height) * (1.0 + noise(u * 9.0, y * 12.0, look.seed));
        let mirrored = blend(self.rgb, look.sky_low, 0.22 * shoulder.max(0.0));
        scale(mirrored, 0.78 + 0.25 * (y / self.deck).min(1.0) - dirt)
    }

    /// The rear or front at `u` in -1..1 across, or None outside the outline.
    fn end(&self, u: f32, y: f32, look: &Look) -> Option<Rgb> {
        let side = u.abs();
        if y < 0.22 {
            return (y > 0.0 && side > 0.62 && side < 0.95).then_some(TYRE);
        }
        if y < self.deck {
            if side > 1.0 {
                return None;
            }
            let lamp = y > 0.62 * self.deck && y < 0.85 * self.deck && side > 0.66;
            if lamp {
                return Some(if self.rear { [0.70, 0.10, 0.10] } else { [0.95, 0.94, 0.86] });
            }
            if y < 0.36 {
                return Some(scale(self.rgb, 0.45)); // bumper
            }
            if side < 0.26 && (0.45..0.60).contains(&(y / self.deck)) {
                return Some(if self.rear { [0.85, 0.84, 0.78] } else { [0.12, 0.12, 0.13] });
            }
            return Some(self.body(u, y, look));
        }
        let up = (y - self.deck) / (self.height - self.deck);
        let edge = 0.99 - 0.10 * up;
        if up > 1.0 || side > edge {
            return None;
        }
        if (0.12..0.84).contains(&up) && side < edge - 0.12 {
            return Some(blend(self.glass, look.sky_low, 0.3 * up));
        }
        Some(self.body(u, y, look))
    }

    /// The side at `s` in 0..1 along the length, or None outside the outline.
    fn side(&self, s: f32, y: f32, look: &Look) -> Option<Rgb> {
        if !(0.0..1.0).contains(&s) || !(0.0..self.height).contains(&y) {
            return None;
        }
        let along = s * self.length;
        for hub in [0.19 * self.length, 0.80 * self.length] {
            let distance = ((along - hub).powi(2) + (y - WHEEL).powi(2)).sqrt();
            if distance < WHEEL {
                return Some(if distance < 0.55 * WHEEL { [0.55, 0.55, 0.56] } else { TYRE });
            }
        }
        if y < 0.24 {
            return None;
        }
        let (a, b) = self.cabin;
        if y > self.deck {
            // The far window leans inwards; the near one stands upright, where its own face is painted.
            let lean = 0.10 * (y - self.deck) / (self.height - self.deck);
            if s < a || s > b - lean {
                return None;
            }
            let up = (y - self.deck) / (self.height - self.deck);
            let pillar = (s - (a + b) / 2.0).abs() < 0.015 || s < a + 0.03 || s > b - lean - 0.03;
            if (0.08..0.82).contains(&up) && !pillar {
                return Some(blend(self.glass, look.sky_low, 0.25 * up));
            }
        }
        let door = (s - (a + b) / 2.0).abs() < 0.006;
        Some(scale(self.body(along, y, look), if door { 0.6 } else { 1.0 }))
    }
}
