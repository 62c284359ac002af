"""Prototypes and class distributions against slow references, and what must hold whatever the numbers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

import brute_prototypes as slow
from pipa import DeviceError, DTypeError, ShapeError
from pipa import functional as F

# More than one block of 64 pixels, a rest, channels and classes beside the vector lengths.
SIZES = [(2, 7, 5, 19, 3), (1, 33, 9, 8, 19), (3, 16, 1, 1, 1)]
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
TOLERANCE = {torch.float64: 1e-10, torch.float32: 3e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}


def maps(size: tuple[int, int, int, int, int], dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """Features, prototypes and a label with ignored pixels."""
    b, d, h, w, k = size
    label = torch.randint(0, k + 1, (b, h, w))
    return torch.randn(b, d, h, w).to(dtype), torch.randn(k, d).to(dtype), label.where(label < k, 255)


def spread(rows: list[list[float]], like: Tensor) -> Tensor:
    b, _, h, w = like.shape
    return torch.tensor(rows, dtype=torch.float64).reshape(b, h, w, -1).permute(0, 3, 1, 2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_weights_are_those_of_loops(size, dtype, path):
    feat, proto, _ = maps(size, dtype)
    found = F.prototype_weights(feat, proto, temperature=0.7)
    assert found.dtype == dtype
    expected = spread(slow.weights(feat, proto, 0.7), feat)
    torch.testing.assert_close(found.double(), expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


def test_an_unseen_class_takes_the_mean_distance(path):
    feat, proto, _ = maps((2, 6, 5, 5, 4))
    seen = torch.tensor([True, False, True, True])
    proto[1] = 1e6  # never read
    found = F.prototype_weights(feat, proto, seen_k=seen)
    expected = spread(slow.weights(feat, proto, 1.0, seen.tolist()), feat)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-6)
    none = F.prototype_weights(feat, proto, seen_k=torch.zeros(4, dtype=torch.bool))
    torch.testing.assert_close(none, torch.full_like(none, 0.25))


def test_equal_prototypes_have_no_opinion(path):
    feat = torch.randn(1, 6, 9, 9)
    found = F.prototype_weights(feat, torch.randn(1, 6).expand(7, 6))
    torch.testing.assert_close(found, torch.full((1, 7, 9, 9), 1 / 7))


@pytest.mark.parametrize("length", [1e-20, 1.0, 1e6, 1e20, 1e30])
def test_a_pixel_on_its_prototype_has_distance_zero(length, path):
    """Exactly, whatever the length of the features: |f|^2 - 2 f.eta + |eta|^2 would not."""
    proto = torch.randn(5, 12) * length
    feat = proto[2].view(1, 12, 1, 1).expand(1, 12, 8, 9)
    weight = F.prototype_weights(feat, proto, temperature=0.1 * length)
    assert weight[:, 2].min() > 0.99
    # A far common shift changes nothing: only differences count (in float32, those that survive the shift itself).
    if length == 1.0:
        shifted = F.prototype_weights(feat + 4096, proto + 4096, temperature=0.1)
        assert shifted[:, 2].min() > 0.99


def test_weights_follow_a_permutation_of_the_classes(path):
    feat, proto, _ = maps(SIZES[1])
    order = torch.randperm(19)
    torch.testing.assert_close(
        F.prototype_weights(feat, proto)[:, order], F.prototype_weights(feat, proto[order]), rtol=1e-5, atol=1e-7
    )


@pytest.mark.parametrize("label_dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64])
def test_update_moves_to_the_means_of_classes_with_enough_pixels(label_dtype, path):
    ignore = -1 if label_dtype == torch.int8 else 255
    feat, proto, label = maps((2, 5, 6, 7, 4))
    label[label == 3] = 0
    label[0, 0, :3] = 3  # three pixels of class 3
    label = label.where(label != 255, ignore).to(label_dtype)
    found = F.prototype_update(proto, feat, label, momentum=0.9, min_pixels=4, ignore_index=ignore)
    for k in range(4):
        rows = feat.permute(0, 2, 3, 1)[label == k].double()
        expected = proto[k].double()
        if len(rows) >= 4:
            expected = 0.9 * expected + 0.1 * rows.mean(0)
        torch.testing.assert_close(found[k].double(), expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(found[3], proto[3])
    assert not found.requires_grad


def test_update_ignores_what_the_ignored_pixels_hold(path):
    feat, proto, label = maps((2, 5, 6, 7, 4))
    other = feat.masked_fill((label == 255)[:, None], 1e6)
    assert torch.equal(F.prototype_update(proto, feat, label), F.prototype_update(proto, other, label))


@pytest.mark.parametrize("dtype", DTYPES)
def test_rectified_label_is_the_largest_product(dtype, path):
    prob = torch.randn(2, 5, 9, 8).softmax(1).to(dtype)
    weight = torch.randn(2, 5, 9, 8).softmax(1).to(dtype)
    label, confidence = F.rectified_label(prob, weight)
    q = prob.double() * weight.double()
    q = q / q.sum(1, keepdim=True)
    best = q.max(1)
    assert label.dtype == torch.int64
    assert confidence.dtype == dtype
    # In half precision products are taken in float32: a tie of rounded products may fall either way.
    agree = label == best.indices
    assert agree.all() or dtype not in (torch.float64, torch.float32)
    torch.testing.assert_close(confidence.double(), best.values, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


def test_neutral_weights_leave_the_softmax_and_contradictions_have_no_confidence(path):
    prob = torch.randn(1, 4, 5, 5).softmax(1)
    label, confidence = F.rectified_label(prob, torch.full_like(prob, 0.25))
    assert torch.equal(label, prob.argmax(1))
    torch.testing.assert_close(confidence, prob.amax(1))
    one, other = (torch.eye(3)[k].view(1, 3, 1, 1) for k in (0, 1))
    label, confidence = F.rectified_label(one, other)
    assert label.item() == 0
    assert confidence.item() == 0.0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_symmetric_cross_entropy_is_that_of_loops(size, dtype, path):
    feat, _, label = maps((size[0], size[4], size[2], size[3], size[4]), dtype)
    logits = 3 * feat
    found = F.symmetric_cross_entropy(logits, label, ce=0.1, rce=1.0)
    expected = slow.symmetric(logits, label, 0.1, 1.0, 1e-4, 255)
    assert float(found) == pytest.approx(expected, rel=1e-3 if dtype == torch.float16 else 1e-5, abs=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_consistency_is_that_of_loops(size, dtype, path):
    feat, proto, _ = maps(size, dtype)
    teacher = feat + 0.3 * torch.randn_like(feat)
    valid = torch.rand(size[0], size[2], size[3]) < 0.7
    found = F.prototype_consistency(feat, teacher, proto, temperature=0.8, valid_bhw=valid)
    expected = slow.consistency(feat, teacher, proto, 0.8, valid.flatten().tolist())
    assert float(found) == pytest.approx(expected, rel=1e-3, abs=1e-6)
    seen = [True] * (size[4] - 1) + [size[4] == 1]
    found = F.prototype_consistency(feat, teacher, proto, temperature=0.8, seen_k=torch.tensor(seen))
    expected = slow.consistency(feat, teacher, proto, 0.8, [True] * valid.numel(), seen)
    assert float(found) == pytest.approx(expected, rel=1e-3, abs=1e-6)


def test_consistency_of_equal_views_is_zero_and_flat(path):
    feat, proto, _ = maps(SIZES[0])
    feat.requires_grad_()
    loss = F.prototype_consistency(feat, feat.detach(), proto)
    loss.backward()
    assert abs(loss.item()) < 1e-6
    assert feat.grad.abs().max() < 1e-6


def test_consistency_is_finite_where_the_student_lies_far_away(path):
    """The weights of the student underflow there: the divergence is a large number, not infinity."""
    proto = torch.tensor([[0.0], [500.0]])
    student = torch.full((1, 1, 2, 2), 500.0, requires_grad=True)
    loss = F.prototype_consistency(student, torch.zeros(1, 1, 2, 2), proto)
    loss.backward()
    assert loss.item() == pytest.approx(500.0, rel=1e-4)
    assert student.grad.isfinite().all()
    assert (student.grad > 0).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_distribution_contrast_is_that_of_loops(size, dtype, path):
    embedding, mean, label = maps(size, dtype)
    mean, var = torch.nn.functional.normalize(mean.float(), dim=1), torch.rand(size[4], size[1]) / size[1]
    found = F.distribution_contrast(5 * embedding, label, mean, var, temperature=0.3)
    expected = slow.distribution(5 * embedding, label, mean, var, 0.3, 255)
    assert float(found) == pytest.approx(expected, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("length", [1e-25, 1e-3, 1e10, 1e30])
def test_distribution_contrast_does_not_see_the_length(length, path):
    embedding, mean, label = maps(SIZES[1])
    var = torch.rand_like(mean) / 33
    mean = torch.nn.functional.normalize(mean, dim=1)
    grads = []
    for factor in (1.0, length):
        x = (embedding * factor).requires_grad_()
        loss = F.distribution_contrast(x, label, mean, var)
        loss.backward()
        grads.append((loss.detach(), x.grad.double() * factor))
    torch.testing.assert_close(grads[0][0], grads[1][0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(grads[0][1], grads[1][1], rtol=1e-3, atol=1e-7)


def test_distribution_contrast_leaves_unseen_classes_out(path):
    embedding, mean, label = maps((2, 8, 9, 9, 4))
    var, seen = torch.rand_like(mean) / 8, torch.tensor([True, True, False, True])
    found = F.distribution_contrast(embedding, label, mean, var, seen_k=seen)
    rest = torch.tensor([0, 1, 9, 2])
    mapped = torch.full_like(label, 255)
    for k in (0, 1, 3):
        mapped[label == k] = rest[k]
    expected = F.distribution_contrast(embedding, mapped, mean[seen], var[seen])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def losses(feat: Tensor, other: Tensor, proto: Tensor, label: Tensor) -> dict[str, Tensor]:
    var = proto.detach().abs() / proto.shape[1]
    return {
        "symmetric": F.symmetric_cross_entropy(feat[:, : len(proto)], label),
        "consistency": F.prototype_consistency(feat, other, proto, valid_bhw=label != 255),
        "distribution": F.distribution_contrast(feat, label, proto, var, temperature=0.5),
    }


@pytest.mark.parametrize("name", ["symmetric", "consistency", "distribution"])
def test_gradients_in_float64(name):
    feat, proto, label = maps((2, 6, 3, 4, 4), torch.float64)
    other = feat + 0.5 * torch.randn_like(feat)
    assert gradcheck(lambda x: losses(x, other, proto, label)[name], feat.requires_grad_())


def test_weights_have_gradients_in_float64():
    feat, proto, _ = maps((2, 6, 3, 4, 4), torch.float64)
    assert gradcheck(F.prototype_weights, (feat.requires_grad_(), proto.requires_grad_()))


@pytest.mark.parametrize("name", ["symmetric", "consistency", "distribution"])
@pytest.mark.parametrize("size", [(2, 33, 9, 11, 19), (1, 16, 8, 8, 3)])
def test_host_kernels_have_the_gradient_of_float64(name, size):
    feat, proto, label = maps(size)
    other = feat + 0.5 * torch.randn_like(feat)
    found = []
    for dtype in (torch.float32, torch.float64):
        x = feat.to(dtype, copy=True).requires_grad_()
        loss = losses(x, other.to(dtype), proto.to(dtype), label)[name]
        (3 * loss).backward()
        found.append((loss.detach().double(), x.grad.double()))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("name", ["symmetric", "consistency", "distribution"])
def test_ignored_pixels_have_no_influence(name, path):
    feat, proto, label = maps((2, 8, 9, 9, 5))
    junk = feat.masked_fill((label == 255)[:, None], 77.0)
    pair = []
    for x in (feat, junk):
        x = x.clone().requires_grad_()
        loss = losses(x, feat, proto, label)[name]
        loss.backward()
        pair.append((loss.detach(), x.grad))
    assert torch.equal(pair[0][0], pair[1][0])
    assert torch.equal(pair[0][1], pair[1][1])
    assert not pair[0][1].permute(0, 2, 3, 1)[label == 255].any()


@pytest.mark.parametrize("name", ["symmetric", "consistency", "distribution"])
def test_nothing_labelled_gives_a_zero_that_keeps_the_graph(name, path):
    feat, proto, label = maps((1, 8, 5, 5, 4))
    feat.requires_grad_()
    loss = losses(feat, feat.detach(), proto, torch.full_like(label, 255))[name]
    loss.backward()
    assert loss.item() == 0.0
    assert not feat.grad.any()


@pytest.mark.parametrize("name", ["symmetric", "consistency", "distribution"])
def test_a_nan_is_not_hidden(name, path):
    feat, proto, label = maps((1, 8, 5, 5, 4))
    label[0, 2, 2] = 1
    feat[0, :, 2, 2] = float("nan")
    assert losses(feat.requires_grad_(), torch.zeros_like(feat), proto, label)[name].isnan()


@pytest.mark.parametrize("threads", [1, 2])
def test_sums_do_not_depend_on_threads(threads):
    feat, proto, label = maps((2, 16, 40, 40, 7))
    before = torch.get_num_threads()
    results = []
    try:
        for count in (1, threads):
            torch.set_num_threads(count)
            results.append(losses(feat, feat.flip(0), proto, label))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


def test_arguments_that_do_not_fit_are_named(path):
    feat, proto, label = maps((2, 6, 3, 4, 4))
    var = torch.rand_like(proto)
    small, few = feat[:, :, :2], proto[:, :5]
    refused = [
        (ShapeError, "proto_kd", lambda: F.prototype_weights(feat, few)),
        (ShapeError, "feat_bdhw", lambda: F.prototype_weights(feat[0], proto)),
        (ShapeError, "seen_k", lambda: F.prototype_weights(feat, proto, seen_k=torch.ones(3, dtype=torch.bool))),
        (DTypeError, "seen_k", lambda: F.prototype_weights(feat, proto, seen_k=torch.ones(4))),
        (DTypeError, "feat_bdhw", lambda: F.prototype_weights(feat.long(), proto)),
        (DTypeError, "proto_kd", lambda: F.prototype_weights(feat, proto.long())),
        (ValueError, "temperature", lambda: F.prototype_weights(feat, proto, temperature=0.0)),
        (ValueError, "temperature", lambda: F.prototype_weights(feat, proto, temperature=float("nan"))),
        (DeviceError, "proto_kd", lambda: F.prototype_weights(feat, proto.to("meta"))),
        (ShapeError, "label_bhw", lambda: F.prototype_update(proto, feat, label[:, :2])),
        (ShapeError, "proto_kd", lambda: F.prototype_update(few, feat, label)),
        (DTypeError, "label_bhw", lambda: F.prototype_update(proto, feat, label.float())),
        (ValueError, "label_bhw", lambda: F.prototype_update(proto, feat, label.fill_(4))),
        (ValueError, "momentum", lambda: F.prototype_update(proto, feat, label.fill_(1), momentum=1.5)),
        (ValueError, "min_pixels", lambda: F.prototype_update(proto, feat, label, min_pixels=0)),
        (ShapeError, "weight_bkhw", lambda: F.rectified_label(feat, small)),
        (DTypeError, "prob_bkhw", lambda: F.rectified_label(feat.long(), feat)),
        (ShapeError, "label_bhw", lambda: F.symmetric_cross_entropy(small, label)),
        (ShapeError, "logits_bkhw", lambda: F.symmetric_cross_entropy(feat[0], label)),
        (ValueError, "label_bhw", lambda: F.symmetric_cross_entropy(feat[:, :1], label)),
        (ValueError, "floor", lambda: F.symmetric_cross_entropy(feat, label, floor=0.0)),
        (ValueError, "ce", lambda: F.symmetric_cross_entropy(feat, label, ce=-1.0)),
        (ShapeError, "feat_teacher_bdhw", lambda: F.prototype_consistency(feat, small, proto)),
        (ShapeError, "valid_bhw", lambda: F.prototype_consistency(feat, feat, proto, valid_bhw=label[:, :2])),
        (ShapeError, "mean_kd", lambda: F.distribution_contrast(feat, label, few, var)),
        (ShapeError, "var_kd", lambda: F.distribution_contrast(feat, label, proto, var[:2])),
        (ShapeError, "label_bhw", lambda: F.distribution_contrast(small, label, proto, var)),
        (ValueError, "temperature", lambda: F.distribution_contrast(feat, label, proto, var, temperature=-1.0)),
    ]
    for error, name, call in refused:
        with pytest.raises(error, match=name):
            call()


def test_examples_in_docstrings_run():
    import doctest

    from pipa.functional import prototypes

    failed, tried = doctest.testmod(prototypes)
    assert failed == 0
    assert tried >= 12
