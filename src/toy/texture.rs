//! Seeded value noise, and arithmetic on colours in 0..1.

pub type Rgb = [f32; 3];

pub fn scale(rgb: Rgb, factor: f32) -> Rgb {
    rgb.map(|v| v * factor)
}

/// `share` 0 gives `a`, 1 gives `b`.
pub fn blend(a: Rgb, b: Rgb, share: f32) -> Rgb {
    [a[0] + (b[0] - a[0]) * share, a[1] + (b[1] - a[1]) * share, a[2] + (b[2] - a[2]) * share]
}

/// 0 below `low`, 1 above `high`, smooth in between.
pub fn step(low: f32, high: f32, v: f32) -> f32 {
    let t = ((v - low) / (high - low)).clamp(0.0, 1.0);
    t * t * (3.0 - 2.0 * t)
}

/// Uniform in [0, 1) for each lattice cell.
pub fn cell(x: i32, y: i32, seed: u32) -> f32 {
    let mut h = (x as u32).wrapping_mul(0x9E37_79B1) ^ (y as u32).wrapping_mul(0x85EB_CA77) ^ seed;
    h = (h ^ (h >> 15)).wrapping_mul(0x2C1B_3C6D);
    h = (h ^ (h >> 12)).wrapping_mul(0x297A_2D39);
    ((h ^ (h >> 15)) >> 8) as f32 / (1 << 24) as f32
}

/// Largest integer not above `v`. `f32::floor` is a library call on processors of the baseline that is built for.
fn floor(v: f32) -> i32 {
    let whole = v as i32;
    whole.saturating_sub(i32::from(v < whole as f32))
}

/// Smooth noise in [-1, 1] whose features are one unit wide.
pub fn noise(x: f32, y: f32, seed: u32) -> f32 {
    let (ix, iy) = (floor(x), floor(y));
    let smooth = |t: f32| t * t * (3.0 - 2.0 * t);
    let (tx, ty) = (smooth(x - ix as f32), smooth(y - iy as f32));
    let (jx, jy) = (ix.wrapping_add(1), iy.wrapping_add(1));
    let top = cell(ix, iy, seed) * (1.0 - tx) + cell(jx, iy, seed) * tx;
    let bottom = cell(ix, jy, seed) * (1.0 - tx) + cell(jx, jy, seed) * tx;
    2.0 * (top * (1.0 - ty) + bottom * ty) - 1.0
}

/// Sum of three octaves, about in [-1, 1].
pub fn fractal(x: f32, y: f32, seed: u32) -> f32 {
    0.55 * noise(x, y, seed) + 0.3 * noise(2.1 * x, 2.1 * y, seed ^ 0x51) + 0.15 * noise(4.3 * x, 4.3 * y, seed ^ 0xA7)
}
