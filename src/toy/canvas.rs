//! Supersampled buffer. Things are painted from near to far, so that each sample is shaded once.

use super::camera::Area;
use super::texture::{blend, Rgb};

/// Samples per pixel and axis. Odd, so that one sample lies in the pixel's middle and gives its label.
const GRID: usize = 3;
const EMPTY: u8 = 255;

/// What is seen at one sample.
pub struct Sample {
    pub rgb: Rgb,
    pub class: u8,
    pub depth: f32,
}

pub struct Canvas {
    pub height: usize,
    pub width: usize,
    rgb: Vec<Rgb>,
    label: Vec<u8>,
    /// Share of light lost per metre, and the colour that replaces it.
    haze: f32,
    haze_rgb: Rgb,
}

impl Canvas {
    pub fn new(height: usize, width: usize, haze: f32, haze_rgb: Rgb) -> Self {
        let n = height * width * GRID * GRID;
        Self { height, width, rgb: vec![[0.0; 3]; n], label: vec![EMPTY; n], haze, haze_rgb }
    }

    /// Bounds of the whole picture.
    pub fn whole(&self) -> Area {
        Area { left: 0.0, top: 0.0, right: self.width as f32, bottom: self.height as f32 }
    }

    /// Shades every sample inside `area` that nothing nearer covers. `shade` takes pixel coordinates.
    pub fn fill(&mut self, area: Area, shade: impl Fn(f32, f32) -> Option<Sample>) {
        let grid = GRID as f32;
        let columns = self.width * GRID;
        let clamp = |v: f32, most: usize| (v.max(0.0) * grid).min(most as f32) as usize;
        let (left, right) = (clamp(area.left.floor(), columns), clamp(area.right.ceil(), columns));
        let (top, bottom) =
            (clamp(area.top.floor(), self.height * GRID), clamp(area.bottom.ceil(), self.height * GRID));
        for row in top..bottom {
            let py = (row as f32 + 0.5) / grid;
            for column in left..right {
                let at = row * columns + column;
                if self.label[at] != EMPTY {
                    continue;
                }
                if let Some(sample) = shade((column as f32 + 0.5) / grid, py) {
                    self.label[at] = sample.class;
                    self.rgb[at] = blend(sample.rgb, self.haze_rgb, 1.0 - (-self.haze * sample.depth).exp());
                }
            }
        }
    }

    /// Mean colour and middle label of each pixel. The sky is painted last and everywhere, so no sample is empty.
    pub fn resolve(self) -> (Vec<Rgb>, Vec<u8>) {
        let columns = self.width * GRID;
        let mut rgb = Vec::with_capacity(self.height * self.width);
        let mut label = Vec::with_capacity(self.height * self.width);
        for y in 0..self.height {
            for x in 0..self.width {
                let mut sum = [0.0; 3];
                for dy in 0..GRID {
                    for dx in 0..GRID {
                        let sample = self.rgb[(y * GRID + dy) * columns + x * GRID + dx];
                        (0..3).for_each(|c| sum[c] += sample[c]);
                    }
                }
                rgb.push(sum.map(|v| v / (GRID * GRID) as f32));
                label.push(self.label[(y * GRID + GRID / 2) * columns + x * GRID + GRID / 2]);
            }
        }
        (rgb, label)
    }
}
