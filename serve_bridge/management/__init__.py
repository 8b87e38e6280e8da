"""What users change and ask about an instance: checked in the caller, then sent to the controller."""
