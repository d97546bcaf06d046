"""`capsfusion check` and `capsfusion gc`: find lost, duplicated, incomplete and stuck work, and files to delete.

`check` has a module for each subject, such as shards, units and stored rows. Each module yields `Finding`s. `check`
changes nothing without `--repair`.
"""
