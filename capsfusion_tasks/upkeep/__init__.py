"""`capsfusion check` and `capsfusion gc`: find lost, duplicated, incomplete and stuck work, and files to delete.

`check` has one module for each hand-over between stages. Each yields `Finding`s. Without `--repair`, it changes
nothing.
"""
