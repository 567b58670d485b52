"""The learned part: from text and outcomes to predicted quality. It has never heard of HTTP."""

import os

# Before ONNX Runtime is imported: it would make a device id and a database below ~/.cache, to tell its maker about us.
# Its own disable_telemetry_events() comes too late for that.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
