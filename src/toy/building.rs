//! Houses: a facade along the street and one towards the camera, with storeys, windows, a ground floor and a roof.

use super::camera::{Area, Camera};
use super::canvas::{Canvas, Sample};
use super::style::Look;
use super::texture::{blend, cell, fractal, noise, scale, step, Rgb};
use super::BUILDING;

pub struct Building {
    /// World x of the wall that runs along the street, and of the house's far side.
    pub wall: f32,
    pub back: f32,
    pub near: f32,
    pub far: f32,
    pub eaves: f32,
    pub ridge: f32,
    pub rgb: Rgb,
    pub roof_rgb: Rgb,
    pub glass: Rgb,
    pub storey: f32,
    pub bay: f32,
    /// Share of a bay and of a storey that the window takes.
    pub window: (f32, f32),
    pub shop: bool,
    pub brick: bool,
    pub seed: u32,
}

impl Building {
    pub fn paint(&self, camera: &Camera, look: &Look, canvas: &mut Canvas) {
        let front = camera.area(self.wall.min(self.back), self.wall.max(self.back), self.ridge, self.near);
        let middle = (self.wall + self.back) / 2.0;
        let half = (self.wall - self.back).abs() / 2.0;
        canvas.fill(front, |px, py| {
            let (x, y) = camera.on_front(px, py, self.near);
            let gable = self.eaves + (self.ridge - self.eaves) * (1.0 - (x - middle).abs() / half);
            let inside = (0.0..gable).contains(&y) && (x - middle).abs() < half;
            inside.then(|| self.sample(x, y, self.near, 1.0 - 0.4 * look.shade, look))
        });
        let columns = [camera.column(self.wall, self.near), camera.column(self.wall, self.far)];
        let side = Area {
            left: columns[0].min(columns[1]),
            right: columns[0].max(columns[1]),
            top: camera.row(self.ridge, self.near),
            bottom: camera.row(0.0, self.near),
        };
        // The wall left of the street looks to the right: it is lit when the sun stands right.
        let lit = self.wall * look.sun < 0.0;
        let light = if lit { 1.0 } else { 1.0 - look.shade };
        canvas.fill(side, |px, py| {
            let (y, z) = camera.on_side(px, py, self.wall)?;
            let inside = (0.0..self.ridge).contains(&y) && (self.near..self.far).contains(&z);
            inside.then(|| self.sample(z - self.near, y, z, light, look))
        });
    }

    /// Colour at `u` metres along a wall and `y` metres up.
    fn sample(&self, u: f32, y: f32, depth: f32, light: f32, look: &Look) -> Sample {
        let grain = look.grain / (1.0 + 0.02 * depth);
        let dirt = fractal(u * 0.5, y * 0.5, self.seed) + 0.6 * noise(u * 6.0, y * 6.0, self.seed ^ 1);
        let rgb = if y > self.eaves { self.roof(u, y, grain) } else { self.wall(u, y, grain, look) };
        // Less light low in the street.
        let low = 1.0 - 0.25 * look.shade * (1.0 - step(0.0, 6.0, y));
        Sample { rgb: scale(rgb, light * low * (1.0 + grain * dirt)), class: BUILDING, depth }
    }

    fn roof(&self, u: f32, y: f32, grain: f32) -> Rgb {
        let row = y / 0.4 - (y / 0.4).floor();
        let tile = cell((u / 0.5) as i32, (y / 0.4) as i32, self.seed ^ 2) - 0.5;
        scale(self.roof_rgb, 1.0 + grain * 2.0 * tile - if row < 0.2 { 0.12 } else { 0.0 })
    }

    fn wall(&self, u: f32, y: f32, grain: f32, look: &Look) -> Rgb {
        let (across, up) = (u / self.bay, y / self.storey);
        let (column, storey) = (across.floor(), up.floor());
        let (fx, fy) = (across - column - 0.5, up - storey - 0.5);
        let tone = cell(column as i32, storey as i32, self.seed ^ 3);
        if self.eaves - y < 0.35 {
            return scale(self.rgb, 1.15); // cornice
        }
        let ground_floor = self.shop && storey < 0.5;
        let (half_x, half_y) = if ground_floor { (0.42, 0.36) } else { (self.window.0 / 2.0, self.window.1 / 2.0) };
        if ground_floor && up > 0.88 {
            return blend(self.rgb, [tone, cell(column as i32, 7, self.seed), 0.3], 0.45);
            // awning
        }
        let (dx, dy) = (fx.abs() - half_x, fy.abs() - half_y);
        if dx < 0.0 && dy < 0.0 {
            let bar = fx.abs() < 0.02 || (-dx) < 0.025 || (-dy) < 0.03;
            if bar {
                return blend(self.rgb, [0.9, 0.9, 0.88], 0.6);
            }
            // The glass mirrors the sky above and the street below; some windows have a curtain.
            let sky = blend(self.glass, look.sky_low, (0.35 + 0.5 * fy).clamp(0.0, 0.7) * 0.6);
            return if tone > 0.8 { blend(sky, [0.85, 0.82, 0.74], 0.6) } else { scale(sky, 0.8 + 0.4 * tone) };
        }
        if dx < 0.02 && (0.0..0.05).contains(&dy) {
            return scale(self.rgb, 0.75); // sill and lintel
        }
        if self.brick {
            let course = y / 0.3;
            let shift = if course.floor() as i32 % 2 == 0 { 0.0 } else { 0.4 };
            let stone = cell(((u + shift) / 0.8).floor() as i32, course as i32, self.seed ^ 4) - 0.5;
            let joint = if course - course.floor() < 0.15 { 0.08 } else { 0.0 };
            return scale(self.rgb, 1.0 + grain * 2.5 * stone - joint);
        }
        self.rgb
    }
}
