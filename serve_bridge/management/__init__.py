"""The operations of an instance: checked in the process of the caller, then sent to the controller."""
