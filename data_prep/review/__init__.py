"""Step 4: a local page on which people look at clips, correct captions and labels, and accept or reject."""
