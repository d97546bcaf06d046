"""The captions view: a small web app to browse captions, and to see the counts and the speed of runs."""
