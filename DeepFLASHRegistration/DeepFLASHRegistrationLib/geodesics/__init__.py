# SPDX-License-Identifier: Apache-2.0
"""Band-limited geodesics: shooting, maps, similarities and the search for the initial velocity.

Torch only; lengths in one unit.
"""
