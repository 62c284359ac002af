"""Metrics, and the evaluation of the teacher."""
