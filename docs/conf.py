"""The documentation site: ``make docs``, without network, warnings are errors; the pages are in docs/_build/html."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
sys.path.insert(0, str(ROOT))
os.environ["EI_EXAMPLES_SHORT"] = "1"  # the gallery's scripts run in their short form

import ei  # noqa: E402

project = "Equivariant Imaging"
author = "the authors of equivariant-imaging"
version = release = ei.__version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx_gallery.gen_gallery",
]
source_suffix = {".rst": "restructuredtext", ".md": "markdown"}
exclude_patterns = ["_build", "gallery_figures", "auto_examples/**/*.ipynb", "auto_examples/**/*.py"]
templates_path = ["_templates"]
myst_enable_extensions = ["colon_fence", "dollarmath", "deflist"]
myst_heading_anchors = 4
# An anchor of a file that is no page of the site, as of ../RESULTS.md, is not checked here but by the tests.
suppress_warnings = ["myst.xref_missing", "config.cache"]

default_role = "py:obj"
autosummary_generate = True
autosummary_ignore_module_all = False
autosummary_imported_members = True
autodoc_member_order = "bysource"
autodoc_typehints = "none"
napoleon_numpy_docstring = False

html_theme = "pydata_sphinx_theme"
html_title = "Equivariant Imaging"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_theme_options = {
    "navbar_align": "left",
    "show_prev_next": False,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
}
# Formulas come from a network; they are left as text where there is none.
mathjax_path = os.environ.get("MATHJAX", "https://cdn.jsdelivr.net/npm/mathjax@4/tex-mml-chtml.js")


def committed_figure(block: tuple, block_vars: dict, gallery_conf: dict) -> str:
    """Where a block shows its figure, that of the script's full form, which docs/gallery_figures.py writes."""
    import matplotlib.pyplot as plt
    from sphinx_gallery.scrapers import figure_rst, matplotlib_scraper

    if "plt.show()" not in block[1]:
        return ""
    name = Path(block_vars["src_file"]).stem
    committed = DOCS / "gallery_figures" / f"{name}.png"
    if not committed.is_file():
        return f"\n*The figure of the short run.*\n\n{matplotlib_scraper(block, block_vars, gallery_conf)}"
    plt.close("all")
    path = next(block_vars["image_path_iterator"])
    shutil.copyfile(committed, path)
    return figure_rst([path], gallery_conf["src_dir"])


sphinx_gallery_conf = {
    "examples_dirs": str(ROOT / "examples"),
    "gallery_dirs": "auto_examples",
    "filename_pattern": "/plot_",
    "image_scrapers": (committed_figure,),
    "reset_modules": ("matplotlib",),
    "plot_gallery": True,
    "capture_repr": (),
    "thumbnail_size": (520, 160),
    "download_all_examples": False,
    "show_signature": False,
    "min_reported_time": 10**6,
    "write_computation_times": False,
    "remove_config_comments": True,
    "within_subsection_order": "FileNameSortKey",
    "abort_on_example_error": True,
    "log_level": {"backreference_missing": "debug"},
}
