"""Views, fused predictions, their files, and the challenge zip."""
