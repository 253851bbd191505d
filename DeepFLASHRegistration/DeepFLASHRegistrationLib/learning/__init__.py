# SPDX-License-Identifier: Apache-2.0
"""Predicting the initial velocity of a geodesic: networks, nothing else."""
