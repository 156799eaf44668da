"""Unprotect: a primary continues without the synchronous copies that a loss took.

Until then it holds its commits. Its timeout ends the wait, or a person changes who confirms its commits: in
evac's own run for that store, or at the database.
"""

from __future__ import annotations

from evac.steps.elect import Elect
from evac.steps.kind import Entry


class Unprotect(Elect):
    name = "unprotect"
    title = "let the primary continue without its lost synchronous replicas"
    work = "release blocked commits"
    sentence = "{target} continues without its synchronous replicas"
    entry = Entry("unprotected", "{target} continues without its synchronous replicas", "main")
    precheck = "its primary answers"
    undo = "let a replica confirm its commits again"
    awaits_commits = True
