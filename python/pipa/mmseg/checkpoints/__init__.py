"""Reading checkpoints safely and converting those of the released repositories."""
