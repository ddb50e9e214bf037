"""What a run will take before it is started: memory and speed, asked of the model's own stages."""
