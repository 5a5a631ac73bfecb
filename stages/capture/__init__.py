"""Sources: cameras, addresses, pipes, video files and pictures."""
