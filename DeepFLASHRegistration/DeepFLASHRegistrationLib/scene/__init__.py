# SPDX-License-Identifier: Apache-2.0
"""Between the MRML scene and the library: nodes to Volumes and back, and what is displayed and how.

Outside this package geometry is LPS mm in array order (imaging.grid.Grid); in the scene it is RAS mm in i, j, k order.
"""
