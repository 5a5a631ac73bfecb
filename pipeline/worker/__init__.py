"""The process of a stage: its loop, the frames in flight, and their pace."""
