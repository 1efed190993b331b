"""Types of libraries that this package does not need: one module each, loaded when a value of theirs is met.

Each has ``split_for(kind)``, which says how instances of a class of its library are split, or None.
"""
