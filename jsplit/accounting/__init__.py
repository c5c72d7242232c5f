"""What a run costs: predicted and counted bytes, and multiply-accumulates."""
