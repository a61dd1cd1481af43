"""Shapes in signatures are checked at run time, here and nowhere else."""

import jaxtyping

jaxtyping.install_import_hook("monosem", "beartype.beartype")
