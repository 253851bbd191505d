# SPDX-License-Identifier: Apache-2.0
"""What every room stands on: errors, folders written whole, tensors on disk, memory, processors, torch."""
