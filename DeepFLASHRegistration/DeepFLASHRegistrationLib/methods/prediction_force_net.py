# SPDX-License-Identifier: Apache-2.0
"""Models of the kind "force-net": the dual net on FLASH's force (learning.force_net)."""

from __future__ import annotations

from ..learning.force_net import ForceNet
from .prediction_on_domain import DomainPredictor


class Kind(DomainPredictor):
    """See Predictor."""

    recordable = False  # its geodesics are looked at, lest they blow up

    def built(self) -> ForceNet:
        self.prepared()
        given = self.config.architecture
        steps, hidden, time_steps = (int(given[name]) for name in ("steps", "hidden", "time_steps"))
        if not 1 <= steps <= 64 or not 1 <= time_steps <= 1000 or hidden < 0:
            raise ValueError("it has more steps than anybody waits for")
        return ForceNet(self.band, self.metric, self.parameters.sigma, steps, hidden, time_steps)
