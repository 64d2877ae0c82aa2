"""Forms in which an attention site can be written, each with what it accepts and what it costs."""
