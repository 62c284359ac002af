"""Using a trained network: ``pipa.load(checkpoint).predict(image)``. Needs torch and NumPy alone."""

from pipa.inference.prediction import Prediction
from pipa.inference.segmenter import Segmenter
from pipa.inference.tiling import Window

__all__ = ["Prediction", "Segmenter", "Window"]
