"""The learned part: from text and outcomes to predicted quality. It has never heard of HTTP."""
