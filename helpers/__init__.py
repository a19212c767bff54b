"""The plumbing under the notebooks: the lesson stays in `notebooks/`, the rest lives here."""

from importlib.metadata import version

__version__ = version("bert-mini-cpu-tutorial")
