"""Shapes stated in the signatures of the ray caster are checked at run time."""

from jaxtyping import install_import_hook

from tests import typecheck

TENSOR_MODULES = (
    "primitives", "surfaces", "camera", "batch", "tracer", "shadows", "textures", "photographs", "appearance",
    "renderer", "motion", "sensor",
)  # fmt: skip

hook = install_import_hook(
    [f"pinakes.scenes.{name}" for name in TENSOR_MODULES], f"{typecheck.__name__}.check"
)
