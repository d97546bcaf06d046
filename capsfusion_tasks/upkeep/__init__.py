"""`capsfusion check` and `capsfusion gc`: find what is lost, duplicated, incomplete or stuck, and what can be deleted.

`check` has one module for each hand-over between stages; each yields `Finding`s. It changes nothing without `--repair`.
"""
