"""Time and memory of attention layers, measured one against another.

`cases` says what is measured, `contenders` builds it, `stepping` runs it on a
backend, `timing` and `memory` measure, `child` does so in a process of its own
that `parent` watches, `report` and `goals` tell what came out.
"""
