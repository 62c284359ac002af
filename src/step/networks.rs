//! What the iteration needs of the networks. Python implements it in `python/step.rs`, the core's tests with tch.

use crate::error::Result;
use crate::patches::BoxYX;
use tch::Tensor;

/// One segmentation output of a forward pass.
pub struct Head {
    /// [B,C,h,w]; resized to the label by the loss.
    pub logits: Tensor,
    /// Part of the image it describes (HRDA's detail crop); none means the whole image.
    pub region: Option<BoxYX>,
    /// Factor of its cross entropy.
    pub weight: f64,
}

/// A network's own supervised loss: from labels [B,H,W] of the images just passed to a number on the graph.
pub type OwnLoss = Box<dyn Fn(&Tensor) -> Result<Tensor>>;

/// What the student returns for one image batch.
pub struct Output {
    /// The first head is the main one.
    pub heads: Vec<Head>,
    /// Backbone features of the whole (context) image, shallow to deep, each [B,D,h,w].
    pub features: Vec<Tensor>,
    /// Maps that the pixel terms see in place of the features, and their place in the image: HRDA's detail crop, or a
    /// head's map of the whole image (none).
    pub detail: Option<(Vec<Tensor>, Option<BoxYX>)>,
    /// Takes the place of the heads' cross entropy on source images; none: the weighted cross entropy of all heads.
    pub own_loss: Option<OwnLoss>,
}

impl Output {
    /// Maps that the pixel terms see, and the part of the image that they show; none means the whole image.
    pub fn pixel_maps(&self) -> (&[Tensor], Option<BoxYX>) {
        match &self.detail {
            Some((maps, region)) => (maps, *region),
            None => (&self.features, None),
        }
    }
}

/// Student, teacher, frozen ImageNet model and projection heads behind one interface.
pub trait Networks {
    /// Student in training mode, with gradient.
    fn student(&mut self, image_bchw: &Tensor) -> Result<Output>;
    /// The student's pass over an image of which the patch embeddings are hidden where `kept` [B,1,H,W] is 0.
    fn student_tokens(&mut self, image_bchw: &Tensor, kept_b1hw: &Tensor) -> Result<Output>;
    /// Maps of the student that the patch term's projection head reads, with gradient.
    fn student_features(&mut self, image_bchw: &Tensor) -> Result<Vec<Tensor>>;
    /// Backbone features of the student alone, with gradient: no segmentation head runs.
    fn student_maps(&mut self, image_bchw: &Tensor) -> Result<Vec<Tensor>>;
    /// Teacher logits [B,C,h,w], without gradient; dropout and drop-path are off.
    fn teacher(&mut self, image_bchw: &Tensor) -> Result<Tensor>;
    /// [`Networks::student`], and the map [B,D,h,w] that the main head's classifier read in that pass.
    fn student_classified(&mut self, image_bchw: &Tensor) -> Result<(Output, Tensor)>;
    /// [`Networks::teacher`], and the map [B,D,h,w] that the main head's classifier read in that pass.
    fn teacher_classified(&mut self, image_bchw: &Tensor) -> Result<(Tensor, Tensor)>;
    /// Backbone features of the teacher, without gradient; dropout and drop-path are off.
    fn teacher_features(&mut self, image_bchw: &Tensor) -> Result<Vec<Tensor>>;
    /// Logits [B,C,h,w] of the network that the training started from, in evaluation mode, without gradient.
    fn initial(&mut self, image_bchw: &Tensor) -> Result<Tensor>;
    /// Features of the frozen ImageNet model, without gradient.
    fn imagenet(&mut self, image_bchw: &Tensor) -> Result<Vec<Tensor>>;
    /// Pixel embedding [B,D,h,w] of backbone features.
    fn pixel_embedding(&mut self, features: &[Tensor]) -> Result<Tensor>;
    /// Patch embedding [B,D,h,w] of backbone features.
    fn patch_embedding(&mut self, features: &[Tensor]) -> Result<Tensor>;
    /// Adds the gradient of `loss` to the student's and heads' parameters.
    fn backward(&mut self, loss: &Tensor) -> Result<()>;
    /// L2 norms of the gradient that `loss` gives the student and, where it is known which parameters those are, its
    /// encoder; leaves every `.grad` alone and the graph alive.
    fn gradient_norms(&mut self, loss: &Tensor) -> Result<(Tensor, Option<Tensor>)>;
    /// Parameters of teacher and student, in the same order.
    fn parameters(&mut self) -> Result<(Vec<Tensor>, Vec<Tensor>)>;
}
