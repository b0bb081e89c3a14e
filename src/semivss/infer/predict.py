"""Models and videos in; a folder of label PNGs, entropy maps, probabilities and overlay videos out."""

from semivss.infer.stream import stream_distribution as stream_distribution
