"""Whether a request is let in, what it may take and cost until its end, and what is told of that end."""
