"""`capsfusion check` and `capsfusion gc`: find lost, duplicated, incomplete and stuck work, and files to delete.

`check` has one module for each hand-over between stages; each yields `Finding`s. It changes nothing without `--repair`.
"""
