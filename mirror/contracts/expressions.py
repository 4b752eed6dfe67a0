"""The expressions that gap files, captions, validation and exports name, in the order in which they are shown."""

EXPRESSIONS = ("neutral", "smile", "serious", "laughing", "surprised", "angry", "sad")
