"""Draws docs/wavefront.png: the step in which each pixel is drawn, one by one and in a wavefront."""

from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from vlae_fast.plan import Source, Stage
from vlae_fast.sampling.schedule import derive

SIZE = (8, 8)
BEFORE = ((-1, -1), (-1, 0), (-1, 1), (0, -1))
STAGES = [  # a 3x3 convolution of type A, then one of type B
    Stage(8, "elu", -1, 0, (Source(0, BEFORE),)),
    Stage(1, "none", -1, 0, (Source(1, (*BEFORE, (0, 0))),)),
]


def draw(axes: Axes, order: str) -> None:
    """A square per pixel, with the number of its step; outlined: those of one step."""
    schedule = derive(STAGES, SIZE, order=order)
    steps = [[j + schedule.slope * i for j in range(SIZE[1])] for i in range(SIZE[0])]
    axes.imshow(steps, cmap="viridis")
    middle = steps[SIZE[0] // 2][1]
    for i, row in enumerate(steps):
        for j, step in enumerate(row):
            dark = step < 0.6 * schedule.steps
            axes.text(j, i, str(step), ha="center", va="center", color="white" if dark else "black", fontsize=9)
            if step == middle:
                square = plt.Rectangle((j - 0.46, i - 0.46), 0.92, 0.92, fill=False, edgecolor="red", linewidth=2)
                axes.add_patch(square)
    axes.set_title(f"{order}: slope {schedule.slope}, {schedule.steps} steps")
    axes.set_xticks([])
    axes.set_yticks([])


if __name__ == "__main__":
    figure, panels = plt.subplots(1, 2, figsize=(8, 4.3), layout="constrained")
    for panel, order in zip(panels, ("raster", "wavefront"), strict=True):
        draw(panel, order)
    figure.savefig(Path(__file__).with_name("wavefront.png"), dpi=100)
