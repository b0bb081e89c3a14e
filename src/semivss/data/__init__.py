"""Data sets, own data, video, the toy world, augmentation and the sample stream."""
