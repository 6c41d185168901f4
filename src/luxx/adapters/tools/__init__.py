"""Tools: every module here that declares one is found by itself; see `docs/adding-a-tool.md`.

This package imports nothing, because the worker processes load it before every job.

    declare    how a tool is declared, checked and bounded
    loading    how tools are found, here and in other packages
    resources  what a tool may use
    workers    child processes for all that can eat time or memory
    jobs       the functions that run in those children
"""
