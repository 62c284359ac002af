"""Native part of pipa. Public functions are documented in `pipa.functional`."""

import numpy as np
import numpy.typing as npt

TORCH_BUILD: str
__version__: str

class ShapeError(ValueError): ...
class DTypeError(TypeError): ...
class DeviceError(ValueError): ...
class NonFiniteError(ArithmeticError): ...

TOY_CLASSES: list[str]
TOY_PALETTE: list[tuple[int, int, int]]
TOY_EDITION: int

def toy_draw(
    domain: str, indices: list[int], seed: int, height: int, width: int
) -> list[tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]]: ...
