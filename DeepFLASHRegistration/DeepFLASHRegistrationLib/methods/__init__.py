# SPDX-License-Identifier: Apache-2.0
"""Estimators of the deformation, the trained models they use, and the registry that every door reads."""
