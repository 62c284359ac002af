"""Windows over an image: their mean, in one piece and in bands, and how much is held at a time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pipa.inference.tiling import Window, bands, slide


def network(x: Tensor) -> Tensor:
    """Depends on the place in the window, as padding makes a real network do."""
    height, width = x.shape[2:]
    ramp = torch.arange(height)[:, None] * 0.1 + torch.arange(width) * 0.01
    return torch.cat([x + ramp, x.mean((2, 3), keepdim=True).expand_as(x)], 1)


@pytest.mark.parametrize("batch", [1, 2, 5])
@pytest.mark.parametrize("size", [(20, 30), (7, 9), (41, 8), (1, 1), (64, 64)])
@pytest.mark.parametrize(("crop", "stride"), [((8, 12), (5, 7)), ((8, 8), (8, 8)), ((16, 16), (4, 4))])
def test_bands_are_the_mean_over_the_windows(
    size: tuple[int, int], crop: tuple[int, int], stride: tuple[int, int], batch: int
) -> None:
    image = torch.randn(2, 3, *size)
    window = Window(crop, stride, batch)
    # The plainest way: every pixel asks every window that holds it.
    total, count = torch.zeros(2, 6, *size), torch.zeros(size)
    starts = [
        sorted({max(min(i * s, length - c), 0) for i in range(-(-max(length - c, 0) // s) + 1)})
        for length, c, s in zip(size, crop, stride, strict=True)
    ]
    for top in starts[0]:
        for left in starts[1]:
            rows, columns = slice(top, top + crop[0]), slice(left, left + crop[1])
            total[:, :, rows, columns] += network(image[:, :, rows, columns])
            count[rows, columns] += 1
    expected = total / count
    torch.testing.assert_close(slide(image, window, network), expected)
    parts = list(bands(image, window, network))
    torch.testing.assert_close(torch.cat([part for _, part in parts], 2), expected)
    assert [first for first, _ in parts] == [sum(p.shape[2] for _, p in parts[:i]) for i in range(len(parts))]


def test_bands_hold_one_window_of_rows_and_pass_bounded_batches() -> None:
    seen: list[int] = []

    def watched(x: Tensor) -> Tensor:
        seen.append(x.shape[0])
        return x

    parts = list(bands(torch.randn(1, 3, 400, 40), Window((16, 16), (8, 8), 3), watched))
    assert max(part.shape[2] for _, part in parts) <= 16
    assert max(seen) == 3


@pytest.mark.parametrize(("crop", "stride", "batch"), [((0, 4), (1, 1), 1), ((4, 4), (5, 4), 1), ((4, 4), (2, 2), 0)])
def test_windows_that_cannot_cover_are_refused(crop: tuple[int, int], stride: tuple[int, int], batch: int) -> None:
    with pytest.raises(ValueError, match=r"^window: "):
        Window(crop, stride, batch)
