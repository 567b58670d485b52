"""The learned part: from text and outcomes to predicted quality. It has never heard of HTTP.

How it works: `reading` turns a conversation into numbers, `heads` turn these into a quality and a length for every
model. `predictor` does both for many conversations, `serving` for one at a time, as a gateway asks. `outcomes` are what
there is to learn from, and `aptitude` makes some; `training` learns, `storage` keeps the artifact that comes of it,
`evaluation` measures it. Later, models join it by an exam (`joining`), it is fitted to somebody's own prompts
(`adapting`), and `operating` says what a weight on cost would save. `studies` are the experiments behind LOG.md.
"""

import os

# Before ONNX Runtime is imported: it would make a device id and a database below ~/.cache, to tell its maker about us.
# Its own disable_telemetry_events() comes too late for that.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
