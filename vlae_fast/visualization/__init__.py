"""Pictures: grids of images as PNG, and figures for reports and notebooks.

The plot functions return a matplotlib Figure that belongs to no window and to no global list: `save_figure(figure,
path)` writes it, a notebook shows it, nothing has to be closed.
"""

from ..generation import DECOMPRESSIONS, decompress
from .charts import plot_collapse, plot_curves, plot_detection, plot_embedding, plot_evaluation
from .codes import code_bits, plot_bits_heatmap
from .grids import grid, plot_table, save_figure, save_grid
from .reconstructions import beside, plot_latent_sampling, plot_reconstructions

__all__ = [
    "DECOMPRESSIONS",
    "beside",
    "code_bits",
    "decompress",
    "grid",
    "plot_bits_heatmap",
    "plot_collapse",
    "plot_curves",
    "plot_detection",
    "plot_embedding",
    "plot_evaluation",
    "plot_latent_sampling",
    "plot_reconstructions",
    "plot_table",
    "save_figure",
    "save_grid",
]
