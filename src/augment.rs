//! Strong augmentation of the mixed image: colour jitter, then Gaussian blur, on images scaled to [0,1].

mod blur;
mod jitter;

pub use blur::{blur_kernel_size, gaussian_blur};
pub use jitter::{color_jitter, JitterDraw};

use crate::error::{Error, Result};
use crate::host;
use crate::host::slice::{output, view};
use crate::rng::Rng;
use crate::shape::{check_float, check_rank};
use crate::transfer::to_device;
use tch::{Kind, Tensor};

/// What happens to one image. None: not applied.
#[derive(Clone, Debug, PartialEq)]
pub struct AugmentDraw {
    pub jitter: Option<JitterDraw>,
    pub blur_sigma: Option<f64>,
}

/// How often and how much.
#[derive(Clone, Debug)]
pub struct AugmentRates {
    pub jitter_strength: f64,
    pub jitter_probability: f64,
    pub blur_probability: f64,
}

/// Applies draws. `mean`, `std`: the normalisation of the network's input on the scale 0-255, one value per channel.
#[derive(Clone, Debug)]
pub struct StrongAugment {
    pub mean: Vec<f64>,
    pub std: Vec<f64>,
}

/// Standard deviation of the blur, in pixels: uniform between these.
const SIGMA: (f64, f64) = (0.15, 1.15);

impl AugmentRates {
    /// One draw per image. Whether to jitter and whether to blur is decided once for the batch, the amounts per image,
    /// as in the released code.
    pub fn draw(&self, batch: usize, rng: &mut Rng) -> Vec<AugmentDraw> {
        let jitter = rng.uniform(0.0, 1.0) < self.jitter_probability;
        let blur = rng.uniform(0.0, 1.0) < self.blur_probability;
        let s = self.jitter_strength;
        let mut image = || AugmentDraw {
            jitter: jitter.then(|| JitterDraw {
                brightness: rng.uniform((1.0 - s).max(0.0), 1.0 + s),
                contrast: rng.uniform((1.0 - s).max(0.0), 1.0 + s),
                saturation: rng.uniform((1.0 - s).max(0.0), 1.0 + s),
                hue: rng.uniform(-s, s),
                order: order(&rng.choose(4, 4)),
            }),
            blur_sigma: blur.then(|| rng.uniform(SIGMA.0, SIGMA.1)),
        };
        (0..batch).map(|_| image()).collect()
    }
}

impl StrongAugment {
    /// Applies one draw to each image of a normalised batch [B,C,H,W]; new tensor of the same dtype. Jitter needs three
    /// channels in the order red, green, blue. An image with neither jitter nor blur comes back unchanged.
    pub fn apply(&self, image_bchw: &Tensor, draws: &[AugmentDraw]) -> Result<Tensor> {
        self.check(image_bchw, draws)?;
        let size = image_bchw.size();
        if draws.iter().all(|d| d.jitter.is_none() && d.blur_sigma.is_none()) {
            return Ok(image_bchw.f_mul_scalar(1.0)?);
        }
        if host::fused_without_grad(&[image_bchw]) && image_bchw.f_kind()? != Kind::Double && image_bchw.numel() > 0 {
            return self.apply_host(image_bchw, draws);
        }
        let images: Vec<Tensor> = draws
            .iter()
            .enumerate()
            .map(|(i, draw)| self.apply_ops(&image_bchw.f_narrow(0, i as i64, 1)?, draw))
            .collect::<Result<_>>()?;
        if images.is_empty() {
            return Ok(Tensor::f_empty(&size, (image_bchw.f_kind()?, image_bchw.device()))?);
        }
        Ok(Tensor::f_cat(&images, 0)?)
    }

    fn check(&self, image_bchw: &Tensor, draws: &[AugmentDraw]) -> Result<()> {
        check_rank(image_bchw, 4, "image_bchw", "[B,C,H,W]")?;
        check_float(image_bchw, "image_bchw")?;
        let size = image_bchw.size();
        if draws.len() as i64 != size[0] {
            return Err(Error::shape(format!("draws: expected {}, one per image, got {}", size[0], draws.len())));
        }
        let (means, stds) = (self.mean.len() as i64, self.std.len() as i64);
        if means != size[1] || stds != size[1] {
            return Err(Error::shape(format!("mean, std: expected {} values, got {means}, {stds}", size[1])));
        }
        if let Some(std) = self.std.iter().find(|&&s| s.is_nan() || s <= 0.0) {
            return Err(Error::value(format!("std: expected positive values, got {std}")));
        }
        draws.iter().filter_map(|d| d.jitter.as_ref()).try_for_each(|j| j.check(size[1]))?;
        let kernel = blur_kernel_size(size[2], size[3]);
        draws.iter().filter_map(|d| d.blur_sigma).try_for_each(|sigma| blur::check(sigma, kernel, size[2], size[3]))
    }

    /// One image [1,C,H,W] in libtorch operations.
    fn apply_ops(&self, image: &Tensor, draw: &AugmentDraw) -> Result<Tensor> {
        if draw.jitter.is_none() && draw.blur_sigma.is_none() {
            return Ok(image.f_alias()?);
        }
        let kind = image.f_kind()?;
        let wide = if kind == Kind::Double { kind } else { Kind::Float };
        let column = |values: &[f64]| -> Result<Tensor> {
            to_device(&Tensor::f_from_slice(values)?.f_view([1, -1, 1, 1])?, image.device(), wide)
        };
        let (mean, std) = (column(&self.mean)?, column(&self.std)?);
        let mut x = image.f_to_kind(wide)?.f_mul(&std)?.f_add(&mean)?.f_div_scalar(255.0)?;
        if let Some(jitter) = &draw.jitter {
            x = jitter::apply_ops(&x, jitter)?;
        }
        if let Some(sigma) = draw.blur_sigma {
            x = blur::blur_ops(&x, sigma, blur_kernel_size(image.size()[2], image.size()[3]))?;
        }
        Ok(x.f_mul_scalar(255.0)?.f_sub(&mean)?.f_div(&std)?.f_to_kind(kind)?)
    }

    /// One pass for the jitter (with both changes of scale) and one for the blur, which keeps a mean of pixels a mean and
    /// so commutes with the change of scale.
    fn apply_host(&self, image_bchw: &Tensor, draws: &[AugmentDraw]) -> Result<Tensor> {
        let size = image_bchw.size();
        let (height, width) = (size[2] as usize, size[3] as usize);
        let per_image = size[1] as usize * height * width;
        let kernel = blur_kernel_size(size[2], size[3]);
        let input = view::<f32>(image_bchw)?;
        let mut result = output::<f32>(&size)?;
        let scale = jitter::Scale::new(&self.mean, &self.std);
        let mut jittered: Option<Vec<f32>> = None;
        for (i, draw) in draws.iter().enumerate() {
            let image = &input[i * per_image..(i + 1) * per_image];
            let out = &mut result[i * per_image..(i + 1) * per_image];
            match (&draw.jitter, draw.blur_sigma) {
                (None, None) => out.copy_from_slice(image),
                (Some(jitter), None) => jitter::jitter_host(image, out, jitter, &scale),
                (None, Some(sigma)) => blur::blur_host(image, out, height, width, sigma, kernel),
                (Some(jitter), Some(sigma)) => {
                    let between = jittered.get_or_insert_with(|| vec![0.0; per_image]);
                    jitter::jitter_host(image, between, jitter, &scale);
                    blur::blur_host(between, out, height, width, sigma, kernel);
                }
            }
        }
        Ok(result.into_tensor().f_to_kind(image_bchw.f_kind()?)?)
    }
}

/// A permutation of 0..4 as an array.
fn order(permutation: &[usize]) -> [usize; 4] {
    let mut order = [0, 1, 2, 3];
    order.iter_mut().zip(permutation).for_each(|(o, &p)| *o = p);
    order
}
