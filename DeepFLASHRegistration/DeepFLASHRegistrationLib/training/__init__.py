# SPDX-License-Identifier: Apache-2.0
"""Training predictors: data sets, pairs, velocities to learn from, and the training itself."""
