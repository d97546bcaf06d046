"""The captions view: a small web app to browse captions and the figures of runs."""
