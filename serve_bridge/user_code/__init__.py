"""What users write: backends, applications, batches, and how they travel. Runs in callers and replicas."""
