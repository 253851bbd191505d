# SPDX-License-Identifier: Apache-2.0
"""What every room stands on: errors, files written whole or not at all, tensors on disk, memory, processors."""
