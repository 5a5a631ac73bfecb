"""Short videos of events.

In this order the files are read best: clips.py (the stage), clip.py (a clip and its report),
recorder.py (the thread), clip_file.py (the files of one clip), folder.py (locked and limited).
"""
