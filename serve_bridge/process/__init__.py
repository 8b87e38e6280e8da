"""What a Python process has, whatever its role: threads with event loops, daemon threads, installed extras."""
