# SPDX-License-Identifier: Apache-2.0
"""What is shown of a result: toggles that show something and take it away again.

None needs a window: they work on the scene's layout, slice and display nodes, which the views follow where there are
any. What a user changes while something is shown is left as the user wants it.
"""
