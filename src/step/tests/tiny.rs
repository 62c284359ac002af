//! A small convolutional network behind the `Networks` trait, with counters of what the iteration asked for.

use crate::error::Result;
use crate::rng::Rng;
use crate::step::{Head, Networks, Output};
use tch::nn::{self, Module};
use tch::{no_grad, Device, Tensor};

pub const CLASSES: i64 = 4;

/// Two strided convolutions (strides 2 and 4) and a classifier.
struct Net {
    store: nn::VarStore,
    stem: nn::Conv2D,
    deep: nn::Conv2D,
    classifier: nn::Conv2D,
}

impl Net {
    fn new() -> Self {
        let store = nn::VarStore::new(Device::Cpu);
        let root = store.root();
        let strided = nn::ConvConfig { stride: 2, padding: 1, ..Default::default() };
        let stem = nn::conv2d(&root / "stem", 3, 6, 3, strided);
        let deep = nn::conv2d(&root / "deep", 6, 8, 3, strided);
        let classifier = nn::conv2d(&root / "classifier", 8, CLASSES, 1, Default::default());
        Self { store, stem, deep, classifier }
    }

    fn copy_of(other: &Net) -> Self {
        let mut net = Self::new();
        net.store.copy(&other.store).expect("both stores have the same variables");
        net.store.freeze();
        net
    }

    fn features(&self, image: &Tensor) -> Vec<Tensor> {
        let shallow = self.stem.forward(image).relu();
        let deep = self.deep.forward(&shallow).relu();
        vec![shallow, deep]
    }

    fn parameters(&self) -> Vec<Tensor> {
        let mut named: Vec<_> = self.store.variables().into_iter().collect();
        named.sort_by(|a, b| a.0.cmp(&b.0));
        named.into_iter().map(|(_, tensor)| tensor).collect()
    }
}

/// Fills a store's variables from `rng`.
fn draw(store: &nn::VarStore, rng: &mut Rng) {
    let mut named: Vec<_> = store.variables().into_iter().collect();
    named.sort_by(|a, b| a.0.cmp(&b.0));
    for (_, mut variable) in named {
        let values = rng.normals(&variable.size()) * 0.2;
        no_grad(|| variable.copy_(&values));
    }
}

/// Student, teacher, ImageNet model and two projection heads.
pub struct Tiny {
    student: Net,
    teacher: Net,
    imagenet: Net,
    heads: nn::VarStore,
    pixel: nn::Conv2D,
    patch: nn::Conv2D,
    /// Names of the calls, in order.
    pub calls: Vec<&'static str>,
    /// Student passes from this one on give NaN.
    pub broken_from: Option<usize>,
}

impl Tiny {
    /// Two networks made by this are equal, whatever the tests beside draw.
    pub fn new() -> Self {
        let mut rng = Rng::new(1);
        let student = Net::new();
        draw(&student.store, &mut rng);
        let (teacher, imagenet) = (Net::copy_of(&student), Net::copy_of(&student));
        let heads = nn::VarStore::new(Device::Cpu);
        let pixel = nn::conv2d(&heads.root() / "pixel", 8, 5, 1, Default::default());
        let patch = nn::conv2d(&heads.root() / "patch", 8, 5, 1, Default::default());
        draw(&heads, &mut rng);
        // The ImageNet model differs from the student, else their distance has no gradient.
        no_grad(|| {
            for mut parameter in imagenet.parameters() {
                let _ = parameter.g_add_scalar_(0.05);
            }
        });
        Self { student, teacher, imagenet, heads, pixel, patch, calls: Vec::new(), broken_from: None }
    }

    pub fn student_parameters(&self) -> Vec<Tensor> {
        self.student.parameters()
    }

    pub fn teacher_parameters(&self) -> Vec<Tensor> {
        self.teacher.parameters()
    }

    /// Gradient of the student's first layer; zeros before any backward pass.
    pub fn stem_gradient(&self) -> Tensor {
        let grad = self.student.stem.ws.grad();
        if grad.defined() {
            grad.copy()
        } else {
            self.student.stem.ws.zeros_like()
        }
    }

    pub fn head_gradients(&self) -> [bool; 2] {
        let any = |conv: &nn::Conv2D| conv.ws.grad().defined() && conv.ws.grad().abs().max().double_value(&[]) > 0.0;
        [any(&self.pixel), any(&self.patch)]
    }

    pub fn frozen_have_gradients(&self) -> bool {
        self.teacher.parameters().iter().chain(&self.imagenet.parameters()).any(|p| p.grad().defined())
    }

    /// One step of gradient descent on student and heads, which clears the gradients.
    pub fn descend(&self, rate: f64) {
        no_grad(|| {
            for mut parameter in self.student.parameters().into_iter().chain(self.heads.trainable_variables()) {
                if parameter.grad().defined() {
                    let change = parameter.grad() * rate;
                    let _ = parameter.g_sub_(&change);
                    parameter.zero_grad();
                }
            }
        });
    }

    fn health(&mut self) -> f64 {
        let done = self.calls.iter().filter(|name| name.starts_with("student")).count();
        if self.broken_from.is_some_and(|first| done > first) {
            f64::NAN
        } else {
            1.0
        }
    }
}

impl Networks for Tiny {
    fn student(&mut self, image: &Tensor) -> Result<Output> {
        self.calls.push("student");
        let features = self.student.features(image);
        let logits = self.student.classifier.forward(&features[1]) * self.health();
        Ok(Output { heads: vec![Head { logits, region: None, weight: 1.0 }], features, detail: None, own_loss: None })
    }
    fn student_tokens(&mut self, image: &Tensor, kept: &Tensor) -> Result<Output> {
        self.student(&(image * kept))
    }
    fn student_features(&mut self, image: &Tensor) -> Result<Vec<Tensor>> {
        self.calls.push("student_features");
        let health = self.health();
        Ok(self.student.features(image).into_iter().map(|f| f * health).collect())
    }
    fn student_maps(&mut self, image: &Tensor) -> Result<Vec<Tensor>> {
        self.calls.push("student_maps");
        let health = self.health();
        Ok(self.student.features(image).into_iter().map(|f| f * health).collect())
    }
    fn teacher(&mut self, image: &Tensor) -> Result<Tensor> {
        self.calls.push("teacher");
        Ok(no_grad(|| self.teacher.classifier.forward(&self.teacher.features(image)[1])))
    }
    fn student_classified(&mut self, image: &Tensor) -> Result<(Output, Tensor)> {
        let output = self.student(image)?;
        let map = output.features[1].shallow_clone();
        Ok((output, map))
    }
    fn teacher_classified(&mut self, image: &Tensor) -> Result<(Tensor, Tensor)> {
        self.calls.push("teacher");
        let map = no_grad(|| self.teacher.features(image).remove(1));
        Ok((no_grad(|| self.teacher.classifier.forward(&map)), map))
    }
    fn teacher_features(&mut self, image: &Tensor) -> Result<Vec<Tensor>> {
        self.calls.push("teacher_features");
        Ok(no_grad(|| self.teacher.features(image)))
    }
    fn initial(&mut self, image: &Tensor) -> Result<Tensor> {
        self.calls.push("initial");
        Ok(no_grad(|| self.imagenet.classifier.forward(&self.imagenet.features(image)[1])))
    }
    fn imagenet(&mut self, image: &Tensor) -> Result<Vec<Tensor>> {
        self.calls.push("imagenet");
        Ok(no_grad(|| self.imagenet.features(image)))
    }
    fn pixel_embedding(&mut self, features: &[Tensor]) -> Result<Tensor> {
        Ok(self.pixel.forward(&features[1]))
    }
    fn patch_embedding(&mut self, features: &[Tensor]) -> Result<Tensor> {
        Ok(self.patch.forward(&features[1]))
    }
    fn backward(&mut self, loss: &Tensor) -> Result<()> {
        self.calls.push("backward");
        Ok(loss.f_backward()?)
    }
    fn gradient_norms(&mut self, loss: &Tensor) -> Result<(Tensor, Option<Tensor>)> {
        let gradient = Tensor::f_run_backward(&[loss], &[&self.student.stem.ws], true, false)?;
        let norm = gradient[0].f_norm()?;
        Ok((norm.shallow_clone(), Some(norm)))
    }
    fn parameters(&mut self) -> Result<(Vec<Tensor>, Vec<Tensor>)> {
        self.calls.push("parameters");
        Ok((self.teacher.parameters(), self.student.parameters()))
    }
}
