# SPDX-License-Identifier: Apache-2.0
"""Models of the kind "dual-net": the paper's R_net and I_net (learning.dual_net), in their three forms."""

from __future__ import annotations

from torch import Tensor

from ..learning.dual_net import DualNet
from .prediction_on_domain import DomainPredictor


class Kind(DomainPredictor):
    """See Predictor."""

    def built(self) -> DualNet:
        self.prepared()
        given = self.config.architecture
        return DualNet(self.band, given["network"], int(given["width"]), given["center"], given["look"])

    def network_velocities(self, fixed: Tensor, moving: Tensor) -> Tensor:
        return self.network.velocities(self.network.spectra(fixed, moving))
