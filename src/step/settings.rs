//! Every setting of the iteration, with its default and the reason for it.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// Which image the two patches of the patch term are cut from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PatchSource {
    /// The mixed image of step 6 (the text of the method).
    Mixed,
    /// The target image (the figure of the paper).
    Target,
}

/// Over which labels the classes of ClassMix are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MixClasses {
    /// Half of the classes that the image itself shows; the ignore id is no class.
    PerImage,
    /// Released code: half of the ids in the whole batch, the ignore id included. Needed to match its numbers.
    Batch,
}

/// Over which pixels a cross entropy is averaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossAverage {
    /// Over labelled pixels: the loss does not shrink with the share of ignored ones.
    Valid,
    /// Released code: over all pixels, ignored ones too. Published learning rates were tuned with it.
    All,
}

/// Which pixels the pixel term compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PixelSampling {
    /// Class-balanced draw of `pixel_max_anchors`, half hard and half easy.
    Balanced,
    /// Every labelled pixel, exactly.
    All,
}

/// Settings of one PiPa iteration. Unknown keys are refused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Number of classes; labels lie in 0..num_classes - 1 or are `ignore_index`.
    pub num_classes: i64,
    /// Label id of pixels without a class (255 in every data set of the field).
    pub ignore_index: i64,
    /// Largest decay of the teacher: alpha_t = min(1 - 1/(t+1), alpha).
    pub alpha: f64,
    /// A pixel counts as confident from this teacher probability on.
    pub threshold: f64,
    /// Rows at the top of the target image whose pseudo-labels weigh 0 (15 on GTA->Cityscapes: sky of the ego view).
    pub ignore_top: i64,
    /// Rows at the bottom whose pseudo-labels weigh 0 (120 on GTA->Cityscapes: the ego vehicle's bonnet).
    pub ignore_bottom: i64,
    /// Factor of the target cross entropy (1 in the paper; 0 gives source-only training).
    pub mix_weight: f64,
    pub mix_classes: MixClasses,
    pub loss_average: LossAverage,
    /// alpha of the total loss: factor of the pixel term (0 switches it off).
    pub pixel_weight: f64,
    pub pixel_temperature: f64,
    pub pixel_sampling: PixelSampling,
    pub pixel_max_anchors: i64,
    pub pixel_max_per_class: i64,
    /// Classes with fewer embedded pixels are not sampled (released code: 101, which leaves rare classes out).
    pub pixel_min_pixels: i64,
    /// Features per class kept from earlier iterations as further keys (0: none, as in the paper).
    pub pixel_memory_bank: i64,
    /// beta of the total loss: factor of the patch term (0.1 in the paper, 0.01 in the released HRDA tree).
    pub patch_weight: f64,
    pub patch_temperature: f64,
    /// Iterations before the patch term starts: early pseudo-labels and features are noise.
    pub patch_warmup: i64,
    /// Height and width of the crops in pixels (720 is the paper's best at 1024 px).
    pub patch_size: (i64, i64),
    /// Range of the intersection over union of the two crops.
    pub patch_iou: (f64, f64),
    /// Crop offsets are multiples of this, so that feature cells of both crops look at the same pixels.
    pub patch_align: i64,
    pub patch_flip: bool,
    pub patch_source: PatchSource,
    /// Factor of the ImageNet feature distance (0.005 in DAFormer; 0 switches it off).
    pub feature_distance_weight: f64,
    /// Classes whose features stay near ImageNet's (thing classes); none means all pixels.
    pub feature_distance_classes: Option<Vec<i64>>,
    /// A cell counts when this share of it shows one class.
    pub feature_distance_min_ratio: f64,
    /// Factor of MIC's masked consistency term (0 switches it off).
    pub mask_weight: f64,
    /// Side of a masked block in pixels.
    pub mask_block: i64,
    /// Share of blocks that are masked.
    pub mask_ratio: f64,
    /// Colour jitter and blur also on the masked image.
    pub mask_augment: bool,
    pub jitter_strength: f64,
    pub jitter_probability: f64,
    pub blur_probability: f64,
    /// Mean and standard deviation the images were normalised with, in 0..255.
    pub mean: Vec<f64>,
    pub std: Vec<f64>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            num_classes: 19,
            ignore_index: 255,
            alpha: 0.999,
            threshold: 0.968,
            ignore_top: 0,
            ignore_bottom: 0,
            mix_weight: 1.0,
            mix_classes: MixClasses::PerImage,
            loss_average: LossAverage::All,
            pixel_weight: 0.1,
            pixel_temperature: 0.1,
            pixel_sampling: PixelSampling::Balanced,
            pixel_max_anchors: 1024,
            pixel_max_per_class: 100,
            pixel_min_pixels: 2,
            pixel_memory_bank: 0,
            patch_weight: 0.1,
            patch_temperature: 0.1,
            patch_warmup: 10_000,
            patch_size: (720, 720),
            patch_iou: (0.1, 1.0),
            patch_align: 8,
            patch_flip: true,
            patch_source: PatchSource::Mixed,
            feature_distance_weight: 0.005,
            feature_distance_classes: None,
            feature_distance_min_ratio: 0.75,
            mask_weight: 0.0,
            mask_block: 64,
            mask_ratio: 0.7,
            mask_augment: true,
            jitter_strength: 0.2,
            jitter_probability: 0.8,
            blur_probability: 0.5,
            mean: vec![123.675, 116.28, 103.53],
            std: vec![58.395, 57.12, 57.375],
        }
    }
}

impl Settings {
    /// From a JSON object; unknown keys and wrong types are errors that name the key.
    pub fn from_json(text: &str) -> Result<Self> {
        let settings: Self = serde_json::from_str(text).map_err(|e| Error::value(format!("step settings: {e}")))?;
        settings.check()?;
        Ok(settings)
    }

    fn check(&self) -> Result<()> {
        let refuse = |name: &str, expected: &str, came: String| {
            Err(Error::value(format!("step settings: {name} must be {expected}, got {came}")))
        };
        if self.num_classes < 2 {
            return refuse("num_classes", "at least 2", self.num_classes.to_string());
        }
        if (0..self.num_classes).contains(&self.ignore_index) {
            return refuse(
                "ignore_index",
                &format!("outside the class ids 0..{}", self.num_classes - 1),
                self.ignore_index.to_string(),
            );
        }
        let shares = [
            ("alpha", self.alpha),
            ("threshold", self.threshold),
            ("feature_distance_min_ratio", self.feature_distance_min_ratio),
            ("mask_ratio", self.mask_ratio),
            ("jitter_probability", self.jitter_probability),
            ("blur_probability", self.blur_probability),
        ];
        for (name, value) in shares {
            if !(0.0..=1.0).contains(&value) {
                return refuse(name, "in [0, 1]", value.to_string());
            }
        }
        let factors = [
            ("mix_weight", self.mix_weight),
            ("pixel_weight", self.pixel_weight),
            ("patch_weight", self.patch_weight),
            ("feature_distance_weight", self.feature_distance_weight),
            ("mask_weight", self.mask_weight),
            ("jitter_strength", self.jitter_strength),
        ];
        for (name, value) in factors {
            if !(value >= 0.0 && value.is_finite()) {
                return refuse(name, "a finite number of at least 0", value.to_string());
            }
        }
        for (name, value) in
            [("pixel_temperature", self.pixel_temperature), ("patch_temperature", self.patch_temperature)]
        {
            if !(value > 0.0 && value.is_finite()) {
                return refuse(name, "a positive number", value.to_string());
            }
        }
        let counts = [
            ("ignore_top", self.ignore_top, 0),
            ("ignore_bottom", self.ignore_bottom, 0),
            ("patch_warmup", self.patch_warmup, 0),
            ("pixel_max_anchors", self.pixel_max_anchors, 2),
            ("pixel_max_per_class", self.pixel_max_per_class, 2),
            ("pixel_min_pixels", self.pixel_min_pixels, 1),
            ("pixel_memory_bank", self.pixel_memory_bank, 0),
            ("patch_align", self.patch_align, 1),
            ("mask_block", self.mask_block, 1),
            ("patch_size", self.patch_size.0.min(self.patch_size.1), 1),
        ];
        for (name, value, least) in counts {
            if value < least {
                return refuse(name, &format!("at least {least}"), value.to_string());
            }
        }
        let (low, high) = self.patch_iou;
        if !(0.0..=1.0).contains(&low) || !(low..=1.0).contains(&high) {
            return refuse("patch_iou", "a range within [0, 1]", format!("[{low}, {high}]"));
        }
        if self.mean.len() != self.std.len() || self.mean.is_empty() || self.std.iter().any(|&s| s <= 0.0) {
            return refuse(
                "mean and std",
                "of one length with positive std",
                format!("{:?}, {:?}", self.mean, self.std),
            );
        }
        if let Some(class) = self.feature_distance_classes.iter().flatten().find(|&&c| c < 0 || c >= self.num_classes) {
            return refuse(
                "feature_distance_classes",
                &format!("ids in 0..{}", self.num_classes - 1),
                class.to_string(),
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_key_is_named() {
        let error = Settings::from_json(r#"{"thresold": 0.9}"#).unwrap_err().to_string();
        assert!(error.contains("thresold") && error.contains("threshold"), "{error}");
    }

    #[test]
    fn values_outside_their_domain_are_named() {
        for (text, name) in [
            (r#"{"threshold": 1.5}"#, "threshold"),
            (r#"{"num_classes": 1}"#, "num_classes"),
            (r#"{"ignore_index": 3}"#, "ignore_index"),
            (r#"{"patch_iou": [0.5, 0.2]}"#, "patch_iou"),
            (r#"{"pixel_temperature": 0}"#, "pixel_temperature"),
            (r#"{"patch_weight": -1}"#, "patch_weight"),
            (r#"{"feature_distance_classes": [19]}"#, "feature_distance_classes"),
            (r#"{"patch_size": [0, 8]}"#, "patch_size"),
        ] {
            let error = Settings::from_json(text).unwrap_err().to_string();
            assert!(error.contains(name), "{text}: {error}");
        }
        assert_eq!(Settings::from_json("{}").unwrap(), Settings::default());
    }
}
