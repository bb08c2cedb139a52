"""Evaluation: full episodes, aggregates with intervals, figures."""
