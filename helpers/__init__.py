"""The plumbing under the notebooks: the lesson stays in `notebooks/`, the rest lives here."""
