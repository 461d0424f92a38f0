"""The shepherd: the small process that watches over one job of the local engine.

Started through ``python -I -S -E -X utf8 <this directory>``, the nursery. It imports the standard library only, and
little of that: there is one for each running job, so that its start and its memory count.
"""
