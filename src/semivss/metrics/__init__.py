"""Scores of predictions: confusion matrix, consistency over time, a whole folder."""
