# SPDX-License-Identifier: Apache-2.0
"""What is asked and what is answered: parameters, subjects, the problem and the deformation."""
