"""What training minimises: pixels, perception and edges, over renders that make transparency visible."""

from wan_alpha.losses.alpha import AlphaVAELoss, LossWeights
from wan_alpha.losses.perceptual import PerceptualLoss

__all__ = ["AlphaVAELoss", "LossWeights", "PerceptualLoss"]
