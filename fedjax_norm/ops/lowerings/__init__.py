"""The forms of a convolution: a module each, with the same three functions.

``forward(geometry, x, kernel)``, ``input_gradient(geometry, dy, kernel)`` and
``kernel_gradient(geometry, x, dy)`` map x [N, H, W, I], kernel [KH, KW, I, O] and dy [N, H', W', O]
to y, dx and dkernel, in the dtype of their arguments.
"""

from fedjax_norm.ops.lowerings import canonical, one_by_one, patches, windows, xla

FORMS = {
  "canonical": canonical,
  "one_by_one": one_by_one,
  "patches": patches,
  "windows": windows,
  "xla": xla,
}
"""{name in the table ``rules.choose``: module}"""

# The forms that the table chooses on either kind of device.
ON_CPU, ON_ACCELERATORS = ("canonical", "windows", "patches"), ("xla", "patches", "one_by_one")
