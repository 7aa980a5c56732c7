"""Pictures: grids of images as PNG, and figures for reports and notebooks.

The plot functions make their figure by pyplot and return it. A notebook shows it once, at the end of the cell or as the
cell's value; `plt.show`, `plt.savefig` and `plt.title` act on it; with `ax=` or `fig=` they draw in the user's own.
`save_figure(figure, path)` writes it and leaves it open, so that it can still be shown. Nothing has to be closed: where
pyplot would warn that many figures are open (`rcParams["figure.max_open_warning"]`, 20), the oldest that was saved is
closed when the next one is made. Outside of the main thread a figure is known to its caller alone, for pyplot's current
figure is one for all threads.
"""

from ..generation import DECOMPRESSIONS, decompress
from .anomalies import plot_anomalies
from .charts import plot_collapse, plot_curves, plot_detection, plot_embedding, plot_evaluation
from .codes import code_bits, plot_bits_heatmap
from .figures import save_figure
from .grids import grid, plot_images, plot_table, save_grid
from .reconstructions import beside, plot_latent_sampling, plot_reconstructions

__all__ = [
    "DECOMPRESSIONS",
    "beside",
    "code_bits",
    "decompress",
    "grid",
    "plot_anomalies",
    "plot_bits_heatmap",
    "plot_collapse",
    "plot_curves",
    "plot_detection",
    "plot_embedding",
    "plot_evaluation",
    "plot_images",
    "plot_latent_sampling",
    "plot_reconstructions",
    "plot_table",
    "save_figure",
    "save_grid",
]
