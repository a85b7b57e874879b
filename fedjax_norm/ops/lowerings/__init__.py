"""The forms of a convolution: a module each, with the same three functions.

``forward(geometry, x, kernel)``, ``input_gradient(geometry, dy, kernel)`` and
``kernel_gradient(geometry, x, dy)`` map x [N, H, W, I], kernel [KH, KW, I, O] and dy [N, H', W', O]
to y, dx and dkernel, in the dtype of their arguments.
"""

from fedjax_norm.ops.lowerings import canonical, one_by_one, patches, taps, windows, winograd, xla

FORMS = {
  "canonical": canonical,
  "one_by_one": one_by_one,
  "patches": patches,
  "taps": taps,
  "windows": windows,
  "winograd": winograd,
  "xla": xla,
}
"""{name in the table ``rules.choose``: module}"""

# The forms that the table chooses on each kind of device.
ON_CPU = ("canonical", "windows", "patches", "winograd", "taps")
ON_ACCELERATORS = ("xla", "patches", "one_by_one")
