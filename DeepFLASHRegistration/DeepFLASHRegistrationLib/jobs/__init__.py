# SPDX-License-Identifier: Apache-2.0
"""Jobs that fill a folder each: never done twice, tried again, resumed, whatever they compute."""
