# SPDX-License-Identifier: Apache-2.0
"""Band-limited geodesics: shooting, maps, similarities and the FLASH optimizer. Torch only; lengths in one unit."""
