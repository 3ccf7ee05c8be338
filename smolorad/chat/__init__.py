"""Conversations as models read them: turns, a model's chat template, and which tokens of the result are trained.

Engine and corpus share this package, so that what `prepare` reports, `preview` shows and a training learns is one decision.
It needs jinja2 alone.
"""
