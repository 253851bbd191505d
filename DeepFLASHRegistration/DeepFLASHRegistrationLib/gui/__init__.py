# SPDX-License-Identifier: Apache-2.0
"""Parts of the module's window. Needs Qt as Slicer brings it (PythonQt); nothing here touches files or torch."""
