"""Properties of the kernels: host and libtorch paths agree, layouts and dtypes do not matter, ignored pixels have no
influence, wrong arguments are named, nothing on the libtorch path waits for a value."""

from __future__ import annotations

import os
import warnings

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import pipa
from pipa import _core
from pipa import functional as F

JITTER = F.Jitter(brightness=1.1, contrast=0.9, saturation=1.15, hue=-0.12, order=(2, 0, 3, 1))


def both(function):
    """Results of the fused and of the libtorch path."""
    results = []
    for on in (True, False):
        before = _core._set_fused(on)
        try:
            results.append(function())
        finally:
            _core._set_fused(before)
    return results


def labels(shape=(2, 1, 33, 47), classes=19, block=5, dtype=torch.int64):
    small = torch.randint(0, classes + 2, (*shape[:2], -(-shape[2] // block), -(-shape[3] // block)))
    big = small.repeat_interleave(block, 2).repeat_interleave(block, 3)[:, :, : shape[2], : shape[3]]
    return torch.where(big >= classes, 255, big).to(dtype)


LAYOUTS = {
    "contiguous": lambda x: x,
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x,
    "transposed": lambda x: x.transpose(-1, -2).contiguous().transpose(-1, -2),
    "strided": lambda x: torch.stack([x, x + 1], -1)[..., 0],
    "offset": lambda x: torch.cat([x[:1], x])[1:],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_paths_and_layouts_agree(layout):
    order = LAYOUTS[layout]
    logits, image, other = 4 * torch.randn(2, 19, 33, 47), torch.rand(2, 3, 33, 47), torch.rand(2, 3, 33, 47)
    label = labels()
    classes = [[0, 3, 5], [255, 2]]
    plain = dict(
        pseudo=F.pseudo_label(logits, ignore_top=3, valid_mask=image[:, :1]),
        mask=F.class_mask(label, classes),
        mix=F.class_mix(F.class_mask(label, classes), image, other),
        blur=F.gaussian_blur(image, 1.1, (9, 5)),
        jitter=F.color_jitter(image, [JITTER, JITTER]),
        strong=F.strong_augment(image, [F.Augment(jitter=JITTER, sigma=0.7), F.Augment(jitter=None, sigma=None)]),
        down=F.downscale_label(label, 4, 0.5, 19),
        loss=F.cross_entropy(logits[..., :20, :30], label[:, 0], image[:, 0]),
        accuracy=F.accuracy(logits, label),
        confusion=F.confusion_matrix(logits.argmax(1, keepdim=True), label, 19),
    )
    for found in both(
        lambda: dict(
            pseudo=F.pseudo_label(order(logits), ignore_top=3, valid_mask=order(image)[:, :1]),
            mask=F.class_mask(order(label), classes),
            mix=F.class_mix(order(F.class_mask(label, classes)), order(image), order(other)),
            blur=F.gaussian_blur(order(image), 1.1, (9, 5)),
            jitter=F.color_jitter(order(image), [JITTER, JITTER]),
            strong=F.strong_augment(
                order(image), [F.Augment(jitter=JITTER, sigma=0.7), F.Augment(jitter=None, sigma=None)]
            ),
            down=F.downscale_label(order(label), 4, 0.5, 19),
            loss=F.cross_entropy(order(logits)[..., :20, :30], order(label)[:, 0], order(image)[:, 0]),
            accuracy=F.accuracy(order(logits), order(label)),
            confusion=F.confusion_matrix(order(logits).argmax(1, keepdim=True), order(label), 19),
        )
    ):
        torch.testing.assert_close(found, plain, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_follow_float32(dtype, path):
    logits, image, label = (
        torch.randn(2, 7, 16, 16).to(dtype),
        torch.rand(2, 3, 16, 16).to(dtype),
        labels((2, 1, 16, 16), 7),
    )
    rough = dict(rtol=2e-2, atol=1e-2) if dtype == torch.bfloat16 else dict(rtol=2e-3, atol=2e-3)
    for function, x in [
        (lambda x: F.gaussian_blur(x, 0.8, (5, 5)), image),
        (lambda x: F.color_jitter(x, [JITTER, JITTER]), image),
        (lambda x: F.strong_augment(x, [F.Augment(jitter=JITTER, sigma=0.8)] * 2), image),
        (lambda x: F.class_mix(F.class_mask(label, [[1], [2]]), x, 1 - x), image),
    ]:
        result = function(x)
        assert result.dtype == dtype
        torch.testing.assert_close(result.float(), function(x.float()), **rough)
    x = logits.clone().requires_grad_()
    loss = F.cross_entropy(x, label)
    loss.backward()
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert x.grad.dtype == dtype
    torch.testing.assert_close(loss.float(), F.cross_entropy(logits.float(), label), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("average", ["all", "valid"])
def test_ignored_pixels_have_no_influence(average, path):
    label = labels((2, 1, 24, 24), 5)[:, 0]
    label[:, :, :8] = 255
    logits = torch.randn(2, 5, 24, 24)
    changed = logits.clone()
    changed.permute(0, 2, 3, 1)[label == 255] = 1e30
    results = []
    for x in (logits, changed):
        x = x.clone().requires_grad_()
        loss = F.cross_entropy(x, label, average=average)
        loss.backward()
        results.append((loss.detach(), x.grad))
        assert torch.equal(x.grad.permute(0, 2, 3, 1)[label == 255], torch.zeros(int((label == 255).sum()), 5))
    torch.testing.assert_close(results[0], results[1], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("average", ["all", "valid"])
def test_all_ignored_is_a_zero_on_the_graph(average, path):
    logits = torch.randn(1, 4, 8, 8, requires_grad=True)
    loss = F.cross_entropy(logits, torch.full((1, 16, 16), 255), average=average)
    loss.backward()
    assert loss.item() == 0.0
    assert torch.equal(logits.grad, torch.zeros_like(logits))
    feat = torch.randn(1, 4, 4, 4, requires_grad=True)
    distance = F.feature_distance(feat, feat.detach() + 1, torch.full((1, 1, 16, 16), 255), [1], num_classes=4)
    distance.backward()
    assert distance.item() == 0.0
    assert torch.equal(feat.grad, torch.zeros_like(feat))


def test_a_constant_more_on_all_logits_changes_nothing(path):
    logits, label = torch.randn(2, 6, 8, 8), labels((2, 1, 16, 16), 6)
    for shift in (100.0, -3000.0):
        torch.testing.assert_close(
            F.cross_entropy(logits + shift, label), F.cross_entropy(logits, label), rtol=1e-3, atol=1e-3
        )
    huge = 1e30 * torch.sign(logits)
    assert F.cross_entropy(huge, label).isfinite()
    found, weight = F.pseudo_label(huge)
    assert torch.equal(found, huge.argmax(1))
    assert weight.isfinite().all()


def test_permuting_pixels_permutes_pseudo_labels(path):
    logits = torch.randn(1, 5, 16, 16)
    order = torch.randperm(256)
    label, weight = F.pseudo_label(logits, threshold=0.6)
    label2, weight2 = F.pseudo_label(logits.flatten(2)[..., order].view_as(logits), threshold=0.6)
    assert torch.equal(label.flatten()[order], label2.flatten())
    assert torch.equal(weight, weight2)


def test_ties_go_to_the_lowest_class(path):
    label, weight = F.pseudo_label(torch.zeros(1, 7, 3, 3), threshold=1 / 7)
    assert torch.equal(label, torch.zeros(1, 3, 3, dtype=torch.int64))
    assert weight.unique().tolist() == [1.0]
    assert F.accuracy(torch.zeros(1, 7, 3, 3), torch.full((1, 3, 3), 3)).item() == 0.0
    assert F.accuracy(torch.zeros(1, 7, 3, 3), torch.zeros(1, 3, 3, dtype=torch.int64)).item() == 100.0


@pytest.mark.parametrize("scope", ["image", "batch"])
def test_drawn_mask_is_the_mask_of_the_draw(scope):
    label = labels((3, 1, 20, 20), 8)
    for seed in range(20):
        drawn = F.draw_classes(label, 8, scope=scope, seed=seed)
        expected = F.class_mask(label, drawn)
        for mask in both(lambda seed=seed: F.draw_class_mask(label, 8, scope=scope, seed=seed)):
            assert torch.equal(mask, expected)


def test_every_class_is_drawn_about_half_of_the_time():
    label = torch.arange(4).view(1, 1, 2, 2)
    counts = torch.zeros(4)
    for seed in range(2000):
        for c in F.draw_classes(label, 4, seed=seed)[0]:
            counts[c] += 1
    assert (counts / 2000 - 0.5).abs().max() < 0.05


def test_augmentation_is_seeded_and_within_its_ranges():
    assert F.draw_augment(3, seed=5) == F.draw_augment(3, seed=5)
    jittered = blurred = 0
    for seed in range(500):
        draws = F.draw_augment(2, seed=seed)
        assert (draws[0]["jitter"] is None) == (draws[1]["jitter"] is None)
        for draw in draws:
            jitter, sigma = draw["jitter"], draw["sigma"]
            if jitter is not None:
                jittered += 1
                assert all(0.8 <= jitter[name] <= 1.2 for name in ("brightness", "contrast", "saturation"))
                assert -0.2 <= jitter["hue"] <= 0.2
                assert sorted(jitter["order"]) == [0, 1, 2, 3]
            if sigma is not None:
                blurred += 1
                assert 0.15 <= sigma <= 1.15
    assert abs(jittered / 1000 - 0.8) < 0.06
    assert abs(blurred / 1000 - 0.5) < 0.07


def test_old_spellings_warn_and_give_the_same():
    image = torch.rand(1, 3, 9, 9)
    with pytest.warns(DeprecationWarning, match="dicts"):
        old = F.strong_augment(image, [(tuple(JITTER.values()), 0.7)])
    assert torch.equal(old, F.strong_augment(image, [F.Augment(jitter=JITTER, sigma=0.7)]))
    label = torch.randint(0, 3, (2, 1, 8, 8))
    for function in (F.draw_classes, F.draw_class_mask):
        with pytest.warns(DeprecationWarning, match="per_image"):
            old = function(label, 3, scope="image", seed=4)
        new = function(label, 3, scope="per_image", seed=4)
        assert torch.equal(torch.as_tensor(old), torch.as_tensor(new)) if isinstance(old, torch.Tensor) else old == new


def test_blur_keeps_constants_and_means_of_long_kernels(path):
    torch.testing.assert_close(
        F.gaussian_blur(torch.full((1, 2, 30, 40), 0.7), 3.0, (29, 31)), torch.full((1, 2, 30, 40), 0.7)
    )
    image = torch.rand(1, 1, 128, 128)
    for sigma in (0.2, 1.0, 6.0, 40.0):
        wide = F.gaussian_blur(image.double(), sigma, (103, 103))
        torch.testing.assert_close(F.gaussian_blur(image, sigma, (103, 103)).double(), wide, rtol=0, atol=1e-6)


def test_ema_of_any_layout_and_tied_parameters(path):
    conv = torch.nn.Conv2d(8, 16, 3).to(memory_format=torch.channels_last)
    teacher, student = [p.detach().clone() for p in conv.parameters()], [torch.randn_like(p) for p in conv.parameters()]
    student[0] = student[0].contiguous()
    teacher += [torch.tensor(2.0), torch.randn(0), torch.randn(5, 6).t(), torch.randn(4).half()]
    student += [torch.tensor(1.0), torch.randn(0), torch.randn(5, 6).t(), torch.randn(4)]
    expected = [0.75 * t.float() + 0.25 * s.float() for t, s in zip(teacher, student, strict=True)]
    F.ema_update(teacher, student, 3)
    for t, e in zip(teacher, expected, strict=True):
        torch.testing.assert_close(t.float(), e, rtol=1e-6, atol=2e-3 if t.dtype == torch.half else 1e-6)
    tied = torch.ones(10)
    F.ema_update([tied, tied], [torch.zeros(10), torch.zeros(10)], 1)
    assert tied.unique().tolist() == [0.25]
    broken = [torch.full((3,), float("nan"))]
    F.ema_update(broken, [torch.ones(3)], 0)
    assert broken[0].tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_confusion_matrix_is_a_bincount(dtype):
    prediction, label = torch.randint(0, 19, (3, 50, 70)), labels((3, 1, 50, 70))[:, 0]
    keep = label != 255
    expected = np.bincount((19 * label[keep] + prediction[keep]).numpy(), minlength=361).reshape(19, 19)
    ours = F.confusion_matrix(prediction.to(dtype), label.to(dtype), 19)
    assert ours.dtype == torch.int64
    assert np.array_equal(ours.numpy(), expected)
    assert torch.equal(F.confusion_matrix(prediction.numpy(), label.numpy(), 19), ours)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
@pytest.mark.parametrize("block", [1, 5, 40])
def test_areas_and_single_pixels_count_alike(dtype, block):
    small = labels((1, 1, 3000 // block, 7))[0, 0]
    label = small.repeat_interleave(block, 0).T.contiguous()  # runs of `block` equal ids, of other lengths than a run
    prediction = label.roll(3, 1) % 19
    keep = label != 255
    expected = np.bincount(label[keep].numpy(), minlength=19)
    assert np.array_equal(F.class_counts(label.to(dtype), 19).numpy(), expected)
    pairs = np.bincount((19 * label[keep] + prediction[keep]).numpy(), minlength=361).reshape(19, 19)
    assert np.array_equal(F.confusion_matrix(prediction.to(dtype), label, 19).numpy(), pairs)


LOGITS, LABEL = torch.zeros(1, 3, 4, 4), torch.zeros(1, 4, 4, dtype=torch.int64)
ERRORS = {
    "label: stray id": (lambda: F.cross_entropy(torch.randn(1, 3, 4, 4), torch.full((1, 4, 4), 7)), ValueError, "id 7"),
    "label: size": (
        lambda: F.cross_entropy(torch.ones(1, 3, 9, 9), LABEL),
        pipa.ShapeError,
        "logits",
    ),
    "label: batch": (
        lambda: F.cross_entropy(torch.ones(2, 3, 4, 4), LABEL),
        pipa.ShapeError,
        "logits",
    ),
    "label: float": (
        lambda: F.cross_entropy(LOGITS, LABEL.float()),
        pipa.DTypeError,
        "label_bhw",
    ),
    "weight: size": (
        lambda: F.cross_entropy(LOGITS, LABEL, torch.ones(1, 2, 2)),
        pipa.ShapeError,
        "weight_bhw",
    ),
    "average": (
        lambda: F.cross_entropy(LOGITS, LABEL, average="some"),
        ValueError,
        "average",
    ),
    "logits: rank": (lambda: F.pseudo_label(torch.randn(3, 4, 4)), pipa.ShapeError, "logits_bchw"),
    "logits: ints": (lambda: F.pseudo_label(torch.ones(1, 3, 4, 4).long()), pipa.DTypeError, "logits_bchw"),
    "rows": (lambda: F.pseudo_label(torch.randn(1, 3, 4, 4), ignore_top=-1), ValueError, "ignore_top"),
    "mask": (
        lambda: F.pseudo_label(torch.randn(1, 3, 4, 4), valid_mask=torch.ones(1, 1, 4, 5)),
        pipa.ShapeError,
        "valid_mask",
    ),
    "lists": (lambda: F.class_mask(torch.zeros(2, 1, 4, 4).long(), [[1]]), pipa.ShapeError, "classes_per_image"),
    "mix": (
        lambda: F.class_mix(torch.zeros(1, 1, 4, 4), torch.ones(1, 3, 4, 4), torch.ones(1, 3, 4, 5)),
        pipa.ShapeError,
        "class_mix",
    ),
    "scope": (lambda: F.draw_classes(torch.zeros(1, 1, 4, 4).long(), 3, scope="x"), ValueError, "scope"),
    "draw id": (lambda: F.draw_classes(torch.full((1, 1, 4, 4), 9), 3), ValueError, "id 9"),
    "sigma": (lambda: F.gaussian_blur(torch.ones(1, 3, 9, 9), 0.0, (3, 3)), ValueError, "sigma"),
    "kernel": (lambda: F.gaussian_blur(torch.ones(1, 3, 9, 9), 1.0, (4, 3)), ValueError, "kernel_size"),
    "wide kernel": (lambda: F.gaussian_blur(torch.ones(1, 3, 9, 9), 1.0, (3, 19)), ValueError, "kernel_size"),
    "channels": (lambda: F.color_jitter(torch.ones(1, 4, 9, 9), [JITTER]), pipa.ShapeError, "3 channels"),
    "order": (lambda: F.color_jitter(torch.ones(1, 3, 9, 9), [{**JITTER, "order": (0, 1, 1, 2)}]), ValueError, "order"),
    "draws": (
        lambda: F.strong_augment(torch.ones(2, 3, 9, 9), [F.Augment(jitter=None, sigma=None)]),
        pipa.ShapeError,
        "draws",
    ),
    "mean": (
        lambda: F.strong_augment(torch.ones(1, 3, 9, 9), [F.Augment(jitter=None, sigma=1.0)], mean=(1, 2)),
        pipa.ShapeError,
        "mean",
    ),
    "scale": (lambda: F.downscale_label(torch.zeros(1, 1, 4, 4).long(), 8, 0.5, 3), ValueError, "scale"),
    "downscaled id": (lambda: F.downscale_label(torch.full((1, 1, 4, 4), 5), 2, 0.5, 3), ValueError, "id 5"),
    "no scale": (
        lambda: F.feature_distance(
            torch.ones(1, 2, 3, 3), torch.ones(1, 2, 3, 3), torch.zeros(1, 1, 12, 8).long(), [1], num_classes=3
        ),
        pipa.ShapeError,
        "integer scale",
    ),
    "teacher": (lambda: F.ema_update([torch.ones(2)], [torch.ones(3)], 1), pipa.ShapeError, "student_params"),
    "count": (lambda: F.ema_update([torch.ones(2)], [], 1), pipa.ShapeError, "parameters"),
    "alpha": (lambda: F.ema_update([], [], 1, 1.5), ValueError, "alpha"),
    "prediction": (lambda: F.confusion_matrix(torch.tensor([5]), torch.tensor([0]), 3), ValueError, "prediction: id 5"),
    "counts label": (lambda: F.class_counts(torch.tensor([0, 3]), 3), ValueError, "label: id 3"),
    "confusion label": (lambda: F.confusion_matrix(torch.tensor([0]), torch.tensor([3]), 3), ValueError, "label: id 3"),
    "grid": (lambda: F.mask_grid(4, 4, 0), ValueError, "block"),
    "no tensor": (lambda: F.pseudo_label([1.0]), TypeError, "Tensor"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_name_the_argument(name, path):
    call, kind, text = ERRORS[name]
    with pytest.raises(kind, match=text):
        call()


class Watch(TorchDispatchMode):
    """Collects operations that make an accelerator wait for a value or a value-dependent shape."""

    WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "item", "is_nonzero", "equal")

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in self.WAITS:
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


def test_the_accelerator_path_waits_for_nothing(monkeypatch):
    """Run on CPU tensors with the host kernels off; the checks of label ids, which only run on the host, are not seen
    because they read memory directly."""
    label, logits, image = labels((2, 1, 16, 16), 7), torch.randn(2, 7, 16, 16), torch.rand(2, 3, 16, 16)
    before = _core._set_fused(False)
    try:
        with Watch() as watch:
            assert torch.add(image, 1).shape == image.shape
            F.pseudo_label(logits, ignore_top=2, valid_mask=image[:, :1])
            mask = F.draw_class_mask(label, 7)
            F.class_mask(label, [[1, 2], [3]])
            F.class_mix(mask, image, image)
            F.strong_augment(image, [F.Augment(jitter=JITTER, sigma=1.0)] * 2)
            F.cross_entropy(logits.requires_grad_(), label, image[:, 0], average="valid").backward()
            F.accuracy(logits, label, average="valid")
            F.feature_distance(
                logits[..., ::4, ::4], logits[..., ::4, ::4] + 1, label, [1, 2], num_classes=7
            ).backward()
            F.ema_update([image], [image + 1], 5)
            F.block_mask(torch.rand(2, 1, 4, 4), 0.7, 16, 16)
        assert watch.seen == []
        with Watch() as watch:
            image.sum().item()
        assert watch.seen == ["_local_scalar_dense"]
    finally:
        _core._set_fused(before)


def test_no_grad_gives_no_graph(path):
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    label = torch.zeros(1, 8, 8, dtype=torch.int64)
    with torch.no_grad():
        assert not F.cross_entropy(logits, label).requires_grad
    assert F.cross_entropy(logits, label).requires_grad
    assert not F.accuracy(logits, label).requires_grad
    assert not any(t.requires_grad for t in F.pseudo_label(logits))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_computes():
    """The parent's threads do not exist in the child: the kernels must not wait for them."""
    logits = torch.randn(1, 19, 64, 64)
    expected = F.pseudo_label(logits)[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        child = os.fork()
    if child == 0:
        status = 1
        try:
            import signal

            signal.alarm(20)
            label = F.pseudo_label(logits)[0]
            status = 0 if np.array_equal(label.numpy(), expected.numpy()) else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_thread_counts_give_equal_sums():
    logits, label = torch.randn(2, 19, 40, 40), labels((2, 1, 160, 160))
    before = torch.get_num_threads()
    losses = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            losses.append(F.cross_entropy(logits, label).item())
    finally:
        torch.set_num_threads(before)
    assert len(set(losses)) == 1
