"""Neighbouring frames for one frame's distribution: optical flow, warping, the mean over a window."""
