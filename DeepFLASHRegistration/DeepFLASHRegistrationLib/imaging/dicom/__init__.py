# SPDX-License-Identifier: Apache-2.0
"""DICOM: which slices belong together, where they lie, and their values.

The headers are read here, not by GDCM (ITK's reader): it tells nothing of the single frames of a multi-frame file, does
not check how slices lie to each other, and takes gigabytes, or ends the process, on some damaged files. Compressed
voxels are decoded by GDCM, from a file made for it that holds nothing else. What is no image (`objects`), and headers
that others repeat, is left to pydicom and highdicom, which need not be there.
"""
