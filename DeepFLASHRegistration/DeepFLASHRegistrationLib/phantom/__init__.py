# SPDX-License-Identifier: Apache-2.0
"""Made subjects whose true map is known."""
