"""Parity: the proof that an artifact computes what the eager module computes, and what is left of it without the module.

`subjects` (what is asked) → `eager`, `twins`, `rounding` (what it should answer, and how nearly) → `gate` (the checks) and `trajectory` (long runs), by `compare` and `tolerances` → `proof`
(all of it) → `report`. `alone` is the proof without a module, and without torch.
"""
