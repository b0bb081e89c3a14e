"""What a recipe costs before it runs, counted on tensors without data."""
