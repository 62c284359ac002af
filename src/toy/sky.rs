//! Sky: a vertical gradient with clouds. Painted last, behind everything.

use super::camera::Camera;
use super::canvas::{Canvas, Sample};
use super::style::Look;
use super::texture::{blend, fractal, step};
use super::SKY;

pub fn paint(camera: &Camera, look: &Look, canvas: &mut Canvas) {
    let height = canvas.height as f32;
    canvas.fill(canvas.whole(), |px, py| {
        let up = ((camera.horizon - py) / height).clamp(0.0, 1.0);
        let clear = blend(look.sky_low, look.sky_top, step(0.0, 0.45, up));
        // Clouds flatten towards the horizon.
        let (u, v) = ((px - camera.center) / height * 3.0, up * 9.0);
        let cover = step(0.1 - 0.5 * look.cloud, 0.6, fractal(u, v, look.seed ^ 0xC10D)) * look.cloud;
        let cloud = blend(look.sky_low, [0.96, 0.96, 0.96], 0.5 + 0.5 * fractal(u * 2.0, v * 2.0, look.seed));
        // Depth 0: haze is already the colour of the low sky.
        Some(Sample { rgb: blend(clear, cloud, cover), class: SKY, depth: 0.0 })
    });
}
