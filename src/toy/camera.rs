//! Pinhole camera over a flat ground. World: x metres to the right, y metres up, z metres ahead. Image: pixels.

/// Where the camera stands and looks. Bends of the street are part of it, since every thing follows the street.
#[derive(Clone, Copy, Debug)]
pub struct Camera {
    pub focal: f32,
    pub center: f32,
    pub horizon: f32,
    pub height: f32,
    /// Sideways shift of the street in metres per square metre ahead.
    pub bend: f32,
}

/// Half-open pixel bounds `left..right`, `top..bottom`; they may reach beyond the image.
#[derive(Clone, Copy, Debug)]
pub struct Area {
    pub left: f32,
    pub top: f32,
    pub right: f32,
    pub bottom: f32,
}

impl Camera {
    /// World x of a place `lateral` metres right of the street's middle, `z` metres ahead.
    pub fn street(&self, lateral: f32, z: f32) -> f32 {
        lateral + self.bend * z * z
    }

    pub fn column(&self, x: f32, z: f32) -> f32 {
        self.center + self.focal * x / z
    }

    pub fn row(&self, y: f32, z: f32) -> f32 {
        self.horizon + self.focal * (self.height - y) / z
    }

    /// Pixel bounds of the upright rectangle `x0..x1`, `0..y1` at depth `z`.
    pub fn area(&self, x0: f32, x1: f32, y1: f32, z: f32) -> Area {
        Area { left: self.column(x0, z), right: self.column(x1, z), top: self.row(y1, z), bottom: self.row(0.0, z) }
    }

    /// Point (x, y) seen at a pixel on the plane at depth `z` that faces the camera.
    pub fn on_front(&self, px: f32, py: f32, z: f32) -> (f32, f32) {
        let metre = z / self.focal;
        ((px - self.center) * metre, self.height - (py - self.horizon) * metre)
    }

    /// Point (y, z) seen at a pixel on the plane `x` = constant that runs along the street.
    pub fn on_side(&self, px: f32, py: f32, x: f32) -> Option<(f32, f32)> {
        let z = self.focal * x / (px - self.center);
        (z.is_finite() && z > 0.0).then(|| (self.height - (py - self.horizon) * z / self.focal, z))
    }

    /// Point (x, z) seen at a pixel on the horizontal plane at height `y`.
    pub fn on_level(&self, px: f32, py: f32, y: f32) -> Option<(f32, f32)> {
        let z = self.focal * (self.height - y) / (py - self.horizon);
        (z.is_finite() && z > 0.0).then(|| ((px - self.center) * z / self.focal, z))
    }
}
