//! From the painted scene to the finished picture: glare, colour, exposure, vignette, blur, noise.

use super::texture::Rgb;
use crate::rng::Rng;

pub struct Film {
    pub exposure: f32,
    pub contrast: f32,
    pub saturation: f32,
    /// Gain of each channel.
    pub cast: Rgb,
    /// Light lost in the corners.
    pub vignette: f32,
    /// Light added around the sun, and the sun's place as shares of width and height.
    pub glare: f32,
    pub glare_at: (f32, f32),
    /// Deviation of the blur in pixels of a picture 128 high; it grows with the picture.
    pub blur: f32,
    pub noise: f32,
}

/// Height for which `Film::blur` is stated.
const REFERENCE_HEIGHT: f32 = 128.0;

/// RGB bytes of a picture of `height` x `width`.
pub fn develop(mut rgb: Vec<Rgb>, height: usize, width: usize, film: &Film, rng: &mut Rng) -> Vec<u8> {
    for (i, pixel) in rgb.iter_mut().enumerate() {
        let (v, u) = ((i / width) as f32 / height as f32, (i % width) as f32 / width as f32);
        *pixel = expose(*pixel, u, v, film);
    }
    blur(&mut rgb, height, width, film.blur * height as f32 / REFERENCE_HEIGHT);
    let mut bytes = Vec::with_capacity(rgb.len() * 3);
    for pixel in rgb {
        // Sensor noise: brightness and colour vary separately, both grow a little with the light.
        let level = film.noise * (0.6 + 0.8 * pixel[1]);
        let grey = rng.normal() as f32;
        for value in pixel {
            let noisy = value + level * (0.8 * grey + 0.6 * rng.normal() as f32);
            bytes.push((noisy.clamp(0.0, 1.0) * 255.0).round() as u8);
        }
    }
    bytes
}

fn expose(pixel: Rgb, u: f32, v: f32, film: &Film) -> Rgb {
    let (du, dv) = (u - film.glare_at.0, v - film.glare_at.1);
    let glare = film.glare * (-(du * du + dv * dv) * 5.0).exp();
    let corner = 1.0 - film.vignette * 2.0 * ((u - 0.5).powi(2) + (v - 0.5).powi(2));
    let grey = 0.3 * pixel[0] + 0.59 * pixel[1] + 0.11 * pixel[2];
    let mut out = [0.0; 3];
    for c in 0..3 {
        let colour = (grey + (pixel[c] - grey) * film.saturation) * film.cast[c] * film.exposure * corner;
        out[c] = (colour - 0.5) * film.contrast + 0.5 + glare;
    }
    out
}

/// Separable Gaussian; the border is repeated.
fn blur(rgb: &mut [Rgb], height: usize, width: usize, sigma: f32) {
    if sigma < 0.2 {
        return; // Narrower than the pixel grid can show.
    }
    let radius = (3.0 * sigma).ceil() as isize;
    let mut kernel: Vec<f32> = (-radius..=radius).map(|d| (-0.5 * (d as f32 / sigma).powi(2)).exp()).collect();
    let total: f32 = kernel.iter().sum();
    kernel.iter_mut().for_each(|w| *w /= total);
    for (along, step, lines, line_step) in [(width, 1, height, width), (height, width, width, 1)] {
        let mut line = vec![[0.0; 3]; along];
        for start in (0..lines).map(|l| l * line_step) {
            for (i, value) in line.iter_mut().enumerate() {
                *value = rgb[start + i * step];
            }
            for i in 0..along {
                let mut sum = [0.0; 3];
                for (k, weight) in kernel.iter().enumerate() {
                    let at = (i as isize + k as isize - radius).clamp(0, along as isize - 1) as usize;
                    (0..3).for_each(|c| sum[c] += weight * line[at][c]);
                }
                rgb[start + i * step] = sum;
            }
        }
    }
}
