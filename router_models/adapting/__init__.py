"""An artifact made to fit somebody's own prompts, and whether that helps."""
