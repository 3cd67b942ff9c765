"""One procedural world with every label: scenes as data, a batched ray caster, and labels as specs.

- `world` is what a scene is; `distribution` and `composition` draw one from a seed; `forms` and `products` are its
  things; `relations` and `wording` say what is true of it.
- `renderer.render` makes pictures of a batch of scenes; `tracer` is the ray caster under it, for other sensors too;
  `motion` leads from the points of one picture to another.
- `labels` holds one file for each kind of ground truth, and `source` gives them as data:
  ``scenes:depth?size=64&n=2000&seed=0``.

Example:
    >>> import numpy as np
    >>> from pinakes.scenes.batch import batch_scenes
    >>> from pinakes.scenes.camera import Cameras
    >>> from pinakes.scenes.composition import draw_scene
    >>> from pinakes.scenes.renderer import render
    >>> scenes = [draw_scene(np.random.default_rng(seed)) for seed in range(4)]
    >>> cameras = Cameras.of([scene.camera for scene in scenes], height=32, width=48)
    >>> out = render(batch_scenes(scenes), cameras, ["image", "depth"])
    >>> out["image"].shape, out["depth"].shape
    (torch.Size([4, 3, 32, 48]), torch.Size([4, 32, 48]))
"""
