# SPDX-License-Identifier: Apache-2.0
"""Many registrations: tables of pairs, each pair a job, and the summary of all; methods compared."""
