//! Every setting of the iteration: the one place of its default, range, unit and reason. Python's types, docs/settings.md
//! and the defaults of losses and functions are made from or tested against this table.

mod kinds;
mod layer;
mod schema;
mod value;

pub use layer::PrototypeLayer;
pub use schema::Entry;
pub use value::Value;

use crate::choices;
use crate::error::Result;
use crate::loss::feature_distance::DistanceForm;
use crate::loss::pixel::Sampling;
use crate::loss::segmentation::Average;
use crate::mix::ClassScope;
use kinds::{at_least, ANY, FACTOR, POSITIVE, SHARE};
use schema::{refusal, settings};

choices! {
    /// Which image the two patches of the patch term are cut from.
    pub enum PatchSource {
        /// The mixed image (the text of the paper).
        Mixed = "mixed",
        /// The target image (the figure of the paper).
        Target = "target",
    }
}

choices! {
    /// Which features of the two crops repel each other in the patch term.
    pub enum PatchNegatives {
        /// All but the pair itself (the paper).
        All = "all",
        /// Those of another label: pasted pixels have the source's, the others their pseudo-label. The released code takes
        /// its negatives so, out of a memory bank.
        OtherClasses = "other_classes",
    }
}

choices! {
    /// Whose softmax the pseudo-labels of the target are taken from.
    pub enum LabelNetwork {
        /// The teacher as it is at this iteration.
        Teacher = "teacher",
        /// The network that the training started from, which stays fixed (ProDA).
        Initial = "initial",
    }
}

choices! {
    /// What a pseudo-label weighs.
    pub enum LabelWeight {
        /// The share of sure pixels of the batch, for all pixels alike.
        Share = "share",
        /// 1 for sure pixels, 0 for the others.
        Confident = "confident",
    }
}

choices! {
    /// What masked consistency hides.
    pub enum MaskKind {
        /// Pixels of the image, which become its mean.
        Pixels = "pixels",
        /// Patch embeddings of a transformer, which become its mask token: it sees no trace of what is hidden.
        Tokens = "tokens",
    }
}

settings! {
    /// Settings of one PiPa iteration.
    pub struct Settings {
        "Classes and images" {
            /// Number of classes. The hook takes it from the decode head; 19 are the Cityscapes classes.
            num_classes: i64 = 19, at_least(2), "classes";
            /// Label id of pixels without a class; never a class of anchors. The released code has -1 in the pixel loss,
            /// while its data has 255.
            ignore_index: i64 = 255, ANY;
            /// Mean the images were normalised with (ImageNet's, RGB, 0..255): jitter and blur work on images in [0, 1]. The
            /// hook takes it from the data preprocessor.
            mean: Vec<f64> = vec![123.675, 116.28, 103.53], ANY;
            /// Standard deviation, likewise.
            std: Vec<f64> = vec![58.395, 57.12, 57.375], POSITIVE;
        }
        "Teacher, pseudo-labels and mixing" {
            /// Largest decay of the teacher: min(1 - 1/(t+1), alpha), a mean over the last thousand iterations.
            alpha: f64 = 0.999, SHARE;
            /// From this probability on a pixel is sure; the share of sure pixels weighs the pseudo-labels of the batch.
            threshold: f64 = 0.968, SHARE;
            /// Rows at the top of each crop without pseudo-labels. Released code: 15 for DAFormer. The shipped configs use
            /// `PseudoMargins` instead, which follows the image, not the crop.
            ignore_top: i64 = 0, at_least(0), "pixels";
            /// Rows at the bottom, likewise (bonnet of the car). Released code: 120 for DAFormer.
            ignore_bottom: i64 = 0, at_least(0), "pixels";
            /// Whose softmax the pseudo-labels are taken from.
            label_network: LabelNetwork = LabelNetwork::Teacher, ANY;
            /// The teacher's logits are the mean over the image and its mirror image: one more of its passes.
            label_flip: bool = false, ANY;
            /// What a pseudo-label weighs.
            label_weight: LabelWeight = LabelWeight::Share, ANY;
            /// Factor of the cross entropy on mixed images, as in the paper. 0 leaves it out.
            mix_weight: f64 = 1.0, FACTOR;
            /// Which classes ClassMix draws half of.
            mix_classes: ClassScope = ClassScope::PerImage, ANY;
            /// What cross entropy and accuracy are divided by.
            loss_average: Average = Average::All, ANY;
            /// Strength of the colour jitter of mixed images.
            jitter_strength: f64 = 0.2, FACTOR;
            /// Probability that it is applied. The released `color_jitter_probability=0.2` is the probability that it is not.
            jitter_probability: f64 = 0.8, SHARE;
            /// Probability of a Gaussian blur with sigma 0.15 to 1.15.
            blur_probability: f64 = 0.5, SHARE;
        }
        "Pixel contrast" {
            /// alpha of the total loss, as in the paper; 0 switches the term off.
            pixel_weight: f64 = 0.1, FACTOR;
            /// tau of the paper.
            pixel_temperature: f64 = 0.1, POSITIVE;
            /// Which pixels are anchors and keys.
            pixel_sampling: Sampling = Sampling::Balanced, ANY;
            /// Anchors per batch: bounds time and memory.
            pixel_max_anchors: i64 = 1024, at_least(2), "pixels";
            /// Anchors per class, so that road does not crowd out signs.
            pixel_max_per_class: i64 = 100, at_least(2), "pixels";
            /// A class with fewer embedded pixels is not drawn: one pixel has no positive. Released code: 101, which leaves
            /// rare classes out, the very ones that need it.
            pixel_min_pixels: i64 = 2, at_least(1), "pixels";
            /// Features per class kept from earlier iterations as further keys; none in the paper.
            pixel_memory_bank: i64 = 0, at_least(0), "features";
            /// Also the mixed images, where their label counts (with `label_weight="confident"`: where it is sure), so that
            /// pixels of source and target are each other's positives; otherwise source images alone, as in the paper.
            pixel_target: bool = false, ANY;
        }
        "Patch contrast" {
            /// beta of the total loss, as in the paper; 0.01 in the released HRDA tree. 0 switches the term off.
            patch_weight: f64 = 0.1, FACTOR;
            /// As for pixels.
            patch_temperature: f64 = 0.1, POSITIVE;
            /// Iterations before the term starts: early features and mixed images are noise. For short trainings set it below
            /// `max_iters`.
            patch_warmup: i64 = 10_000, at_least(0), "iterations";
            /// Height and width of the two crops, the paper's best at 1024 pixels. It must fit into the training crop: the 640
            /// configs use 448, the same share.
            patch_size: (i64, i64) = (720, 720), at_least(1).of(["height", "width"]), "pixels";
            /// Range of the intersection over union of the two crops: from hardly overlapping to equal.
            patch_iou: (f64, f64) = (0.1, 1.0), SHARE.of(["lowest", "highest"]);
            /// Crop offsets are multiples of this output stride, so that feature cells of both crops look at the same pixels.
            /// Pairs of the released HRDA tree lie 252 pixels apart.
            patch_align: i64 = 8, at_least(1), "pixels";
            /// Each crop is mirrored with probability one half.
            patch_flip: bool = true, ANY;
            /// Image the crops are cut from.
            patch_source: PatchSource = PatchSource::Mixed, ANY;
            /// Which features of the crops repel.
            patch_negatives: PatchNegatives = PatchNegatives::All, ANY;
        }
        "Class-distribution contrast" {
            /// Factor of the contrast with the running distribution of each class (SePiCo), on the pixel embedding: beside
            /// the pixel contrast or, with `pixel_weight` 0, in its place. 0 switches it off.
            distribution_weight: f64 = 0.0, FACTOR;
            /// t of its equation.
            distribution_temperature: f64 = 0.1, POSITIVE;
            /// Largest decay of mean and variance: min(1 - 1/(u+1), this) after u batches with the class.
            distribution_momentum: f64 = 0.999, SHARE;
            /// Also the mixed images, where their label counts; otherwise source images alone.
            distribution_target: bool = false, ANY;
        }
        "Prototypes and the unmixed target" {
            /// Pseudo-labels are corrected by the distances to the class prototypes (ProDA, equation 5).
            prototype_labels: bool = false, ANY;
            /// tau of the softmax over distances, 1 in the paper. Distances grow with the root of the number of channels.
            prototype_temperature: f64 = 1.0, POSITIVE;
            /// Largest decay of the prototypes, as in the paper.
            prototype_momentum: f64 = 0.9999, SHARE;
            /// A class with fewer pixels in the batch, on the grid of the features, is left alone.
            prototype_min_pixels: i64 = 10, at_least(1), "pixels";
            /// Map that prototypes live on: of the encoder, from shallow to deep (-1: the deepest), or "head": what the main
            /// head classifies, as in ProDA.
            prototype_layer: PrototypeLayer = PrototypeLayer::Encoder(-1), ANY;
            /// Factor of the cross entropy on a strong view of the unmixed target: 1 in ProDA. 0 leaves it out.
            target_weight: f64 = 0.0, FACTOR;
            /// Factor of cross entropy in it: 0.1 in stage 1 of ProDA, where labels are wrong; 1 in its stages 2 and 3.
            target_ce: f64 = 0.1, FACTOR;
            /// Factor of reverse cross entropy in it: 1 in stage 1, 0 in stages 2 and 3.
            target_rce: f64 = 1.0, FACTOR;
            /// Factor of the divergence between teacher and student in their place among the prototypes: 10 in stage 1.
            structure_weight: f64 = 0.0, FACTOR;
            /// Factor of the mean of -log p over classes, against collapse to one: 0.1 in stage 1.
            regularizer_weight: f64 = 0.0, FACTOR;
            /// Factor of the divergence from the network that the training started from: 1 in stages 2 and 3.
            distillation_weight: f64 = 0.0, FACTOR;
        }
        "Feature distance to the frozen encoder" {
            /// DAFormer's lambda; 0 switches it off; 0.1 with the cosine form (VFM-UDA++). Of use only where the encoder
            /// starts from pretrained weights.
            feature_distance_weight: f64 = 0.005, FACTOR;
            /// How far features are from those of the encoder that the training started from.
            feature_distance_form: DistanceForm = DistanceForm::Euclidean, ANY;
            /// Also on the target image, at all its positions: one more pass of student and frozen encoder.
            feature_distance_target: bool = false, ANY;
            /// On the source: classes whose features stay near ImageNet's; null: all. The shipped configs name the ten thing
            /// classes of Cityscapes.
            feature_distance_classes: Option<Vec<i64>> = None, at_least(0);
            /// A cell of the feature map counts if this share of it is one class.
            feature_distance_min_ratio: f64 = 0.75, SHARE;
        }
        "Masked image consistency" {
            /// Factor of MIC's term: off in PiPa, 1 in MIC.
            mask_weight: f64 = 0.0, FACTOR;
            /// What is hidden.
            mask_kind: MaskKind = MaskKind::Pixels, ANY;
            /// Side of a masked block: what is hidden cannot be read off its neighbours.
            mask_block: i64 = 64, at_least(1), "pixels";
            /// Share of blocks that are masked.
            mask_ratio: f64 = 0.7, SHARE;
            /// Jitter and blur on the masked image too.
            mask_augment: bool = true, ANY;
        }
    }
}

impl Settings {
    /// Defaults, changed by the given values. An unknown name or a value that does not fit is an error that names it.
    pub fn new<'a>(given: impl IntoIterator<Item = (&'a str, Value)>) -> Result<Self> {
        let mut settings = Self::default();
        for (name, value) in given {
            settings.set(name, &value)?;
        }
        settings.check()?;
        Ok(settings)
    }

    /// What concerns several settings at once.
    fn check(&self) -> Result<()> {
        let classes = 0..self.num_classes;
        let last = self.num_classes - 1;
        if classes.contains(&self.ignore_index) {
            return Err(refusal("ignore_index", &format!("an id outside the classes 0..{last}"), self.ignore_index));
        }
        let (low, high) = self.patch_iou;
        if low > high {
            let expected = "[lowest, highest] in this order";
            return Err(refusal("patch_iou", expected, format!("[{low:?}, {high:?}]")));
        }
        if self.mean.len() != self.std.len() {
            let expected = format!("one number per channel, {} as mean has", self.mean.len());
            return Err(refusal("std", &expected, self.std.len()));
        }
        if let Some(class) = self.feature_distance_classes.iter().flatten().find(|class| !classes.contains(class)) {
            return Err(refusal("feature_distance_classes", &format!("ids in 0..{last}"), class));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(word: &str) -> Value {
        Value::Text(word.into())
    }

    fn list(numbers: &[f64]) -> Value {
        Value::List(numbers.iter().map(|&x| Value::Float(x)).collect())
    }

    #[test]
    fn what_does_not_fit_is_named_with_what_is_expected() {
        let ints = |numbers: &[i64]| Value::List(numbers.iter().map(|&x| Value::Int(x)).collect());
        for (name, value, message) in [
            ("thresold", Value::Float(0.9), "thresold: no such setting (there are num_classes, "),
            ("threshold", Value::Float(1.5), "threshold: expected a number in [0, 1], got 1.5"),
            ("threshold", Value::Float(f64::NAN), "threshold: expected a number in [0, 1], got nan"),
            ("alpha", text("high"), "alpha: expected a number in [0, 1], got 'high'"),
            ("alpha", Value::Bool(true), "alpha: expected a number in [0, 1], got True"),
            ("prototype_layer", text("neck"), "prototype_layer: expected a whole number or \"head\", got 'neck'"),
            ("prototype_layer", Value::Bool(true), "prototype_layer: expected a whole number or \"head\", got True"),
            ("num_classes", Value::Int(1), "num_classes: expected a whole number of at least 2, got 1"),
            ("num_classes", Value::Float(3.0), "num_classes: expected a whole number of at least 2, got 3.0"),
            ("num_classes", Value::None, "num_classes: expected a whole number of at least 2, got None"),
            ("ignore_index", Value::Int(3), "ignore_index: expected an id outside the classes 0..18, got 3"),
            ("pixel_temperature", Value::Int(0), "pixel_temperature: expected a number above 0, got 0"),
            ("patch_weight", Value::Int(-1), "patch_weight: expected a number of at least 0, got -1"),
            ("patch_weight", Value::Float(f64::INFINITY), "patch_weight: expected a number of at least 0, got inf"),
            (
                "patch_size",
                Value::Int(64),
                "patch_size: expected [height, width], two whole numbers of at least 1, got 64",
            ),
            ("patch_size", ints(&[0, 8]), "patch_size: expected [height, width], two whole numbers of at least 1"),
            (
                "patch_size",
                ints(&[8]),
                "patch_size: expected [height, width], two whole numbers of at least 1, got [8]",
            ),
            ("patch_iou", list(&[0.5, 0.2]), "patch_iou: expected [lowest, highest] in this order, got [0.5, 0.2]"),
            ("patch_flip", Value::Int(1), "patch_flip: expected True or False, got 1"),
            ("patch_source", text("both"), "patch_source: expected \"mixed\" or \"target\", got 'both'"),
            ("mean", list(&[]), "mean: expected a list of numbers, one per channel, got []"),
            ("std", list(&[1.0, 0.0, 1.0]), "std: expected a list of numbers above 0, one per channel"),
            ("std", list(&[1.0, 2.0]), "std: expected one number per channel, 3 as mean has, got 2"),
            ("feature_distance_classes", ints(&[19]), "feature_distance_classes: expected ids in 0..18, got 19"),
            ("feature_distance_classes", text("car"), "feature_distance_classes: expected a list of class ids or None"),
        ] {
            let error = Settings::new([(name, value)]).unwrap_err().to_string();
            assert!(error.starts_with(message), "{error}");
        }
    }

    #[test]
    fn given_values_replace_defaults() -> Result<()> {
        assert_eq!(Settings::new([])?, Settings::default());
        let settings = Settings::new([("patch_weight", Value::Int(1)), ("mix_classes", text("batch"))])?;
        assert_eq!((settings.patch_weight, settings.mix_classes), (1.0, ClassScope::Batch));
        Ok(())
    }

    #[test]
    fn the_schema_lists_every_setting() -> Result<()> {
        let schema = Settings::schema()?;
        let values = schema::to_json(&Settings::default())?;
        assert_eq!(values.as_object().map(|all| all.len()), Some(schema.len()));
        for entry in schema {
            assert_eq!(values[entry.name], entry.default, "{}", entry.name);
            assert!(entry.doc.ends_with('.'), "{}: {}", entry.name, entry.doc);
            let names = entry.r#type.starts_with(char::is_uppercase);
            assert_eq!(entry.choices.is_empty(), !names, "{}", entry.name);
        }
        Ok(())
    }
}
